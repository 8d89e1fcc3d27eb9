"""One module for each subcommand of `distillens`: `add_parser` and `run`."""
