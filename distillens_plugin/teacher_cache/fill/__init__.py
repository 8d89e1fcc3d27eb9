"""Fills a teacher cache before training, by whatever runs the teacher best.

An engine (`engine.py`) gives the residual stream at the supervised positions of rows; `filling.py`
checks it against the engine's own probabilities and stores it.
"""
