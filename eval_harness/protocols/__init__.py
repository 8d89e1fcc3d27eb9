"""Named sets of evaluation settings."""
