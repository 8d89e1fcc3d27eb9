"""One module for each subcommand: `add_parser(subparsers)` and `run(args) -> int | None`."""
