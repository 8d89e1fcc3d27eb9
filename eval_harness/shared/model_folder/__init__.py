"""The files of a model, checked and identified before any weights are read."""
