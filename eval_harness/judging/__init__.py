"""Answers of two systems, judged by a model behind an endpoint."""
