"""The command line: one subcommand for each module of `eval_harness.commands`."""

from eval_harness.shared.program.early import end_at_once, is_program

if is_program("eval-harness"):
    end_at_once("eval-harness")

import argparse
import importlib
from collections.abc import Sequence
from typing import Any, NoReturn

from eval_harness.shared.program.command import Invocation, run_program

PROGRAM = "eval-harness"
COMMANDS = ("run", "score", "compare", "report", "ls", "validate", "export_lm_eval")


class _OneLineParser(argparse.ArgumentParser):
    """Tells a wrong argument in one line, without the usage text, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns its exit code (0, 1, 2, or 128 and a signal's number).

    Args:
        argv: the arguments; None: those of the process, which is taken to end with the command.
    """
    return run_program(lambda: _parse(argv), program=PROGRAM, ends_process=argv is None)


def _parse(argv: Sequence[str] | None) -> Invocation:
    parser = _OneLineParser(
        prog=PROGRAM,
        description="Generate and score instruction-following benchmarks.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module: Any = importlib.import_module(f"eval_harness.commands.{name}")
        before = set(subparsers.choices)
        module.add_parser(subparsers)
        for added in set(subparsers.choices) - before:
            subparser = subparsers.choices[added]
            subparser.set_defaults(run=module.run)
            # After the subcommand too; SUPPRESS keeps it from undoing the one before.
            subparser.add_argument(
                "--debug",
                action="store_true",
                default=argparse.SUPPRESS,
                help="show the traceback of an error",
            )
    args = parser.parse_args(argv)
    return Invocation(lambda: args.run(args), f"{PROGRAM} {args.command}", args.debug)
