"""Results and samples on disk, in lm-eval's layout."""
