"""Results and samples, in memory and on disk, in lm-eval's layout."""
