"""The `eval-harness` command: collects the subcommands of `eval_harness.commands`."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from eval_harness import commands
from eval_harness.command import run_command

PROGRAM = "eval-harness"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error of the commands."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help shows the options)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands. Loads none of what they need to run."""
    parser = _Parser(prog=PROGRAM, description="Generate, score and compare model answers.")
    debug = "show the traceback of an error"
    parser.add_argument("--debug", action="store_true", help=debug)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for found in sorted(pkgutil.iter_modules(commands.__path__), key=lambda found: found.name):
        module = importlib.import_module(f"{commands.__name__}.{found.name}")
        before = set(subparsers.choices)
        module.add_parser(subparsers)
        for name in set(subparsers.choices) - before:
            subparser = subparsers.choices[name]
            subparser.set_defaults(run=module.run)
            # SUPPRESS: a default here would undo the flag given before the command.
            subparser.add_argument(
                "--debug", action="store_true", default=argparse.SUPPRESS, help=debug
            )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        arguments: of the command line, without the program; `sys.argv` by default.
    Returns:
        The exit code (see `eval_harness.command`); argparse's own errors exit with 2.
    """
    args = build_parser().parse_args(arguments)
    # A file name may hold bytes that are not UTF-8; printing it must not end the program.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return run_command(lambda: args.run(args), program=PROGRAM, debug=args.debug)
