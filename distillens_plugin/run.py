"""`python -m distillens_plugin.run RECIPE`: `distillens run`, for launchers that start a module."""

import sys

from eval_harness.shared.program.early import end_at_once

if __name__ == "__main__":
    end_at_once("distillens run")

from collections.abc import Sequence

from distillens_plugin.commands.run import DESCRIPTION, add_arguments, run
from eval_harness.shared.program.command import Invocation, OneLineParser, run_program

PROGRAM = "distillens run"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a recipe; returns the exit code.

    Args:
        argv: the arguments; None: those of the process, which is taken to end with the command.
    """
    return run_program(lambda: _parse(argv), program=PROGRAM, ends_process=argv is None)


def _parse(argv: Sequence[str] | None) -> Invocation:
    parser = OneLineParser(prog="python -m distillens_plugin.run", description=DESCRIPTION)
    add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    return Invocation(lambda: run(arguments), PROGRAM, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
