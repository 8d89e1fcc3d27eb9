"""`distillens lens-report RECIPE`: an earlier name of `distillens lens RECIPE`."""

import argparse
import sys

from distillens_plugin.commands import lens


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "lens-report",
        help="an earlier name of lens",
        description="The same as `distillens lens`, under its earlier name.",
    )
    lens.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Does what `distillens lens` does, and says so."""
    lens.run(arguments)
    print(
        "note: lens-report is now `distillens lens`; with --output_dir it draws too",
        file=sys.stderr,
    )
