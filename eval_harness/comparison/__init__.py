"""Systems compared row by row."""
