"""Scores of answers, row by row and per task."""
