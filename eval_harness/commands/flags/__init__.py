"""What `eval-harness run` reads: flags, a file of flags, and lm-eval's flags that do not apply."""
