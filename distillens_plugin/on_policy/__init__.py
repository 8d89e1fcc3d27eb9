"""Answers that the student samples while it trains."""
