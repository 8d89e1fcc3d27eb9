"""The command `distillens`: one subcommand for each module of `distillens_plugin.commands`."""

import sys

from eval_harness.shared.program.early import end_at_once, is_program

if __name__ == "__main__" or is_program("distillens"):
    end_at_once("distillens")

from collections.abc import Sequence

from eval_harness.shared.program.command import Invocation, run_program
from eval_harness.shared.program.subcommands import read_command_line

PROGRAM = "distillens"
# A new subcommand is a module of that name and a word here.
COMMANDS = (
    "run",
    "recipes",
    "plan",
    "cache",
    "hooks",
    "generate",
    "tune_lens",
    "teacher_fisher",
    "lens",
    "lens_report",
    "report",
    "study",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns its exit code (0, 1, 2, or 128 and a signal's number).

    Args:
        argv: the arguments; None: those of the process, which is taken to end with the command.
    """
    return run_program(lambda: _parse(argv), program=PROGRAM, ends_process=argv is None)


def _parse(argv: Sequence[str] | None) -> Invocation:
    return read_command_line(
        argv,
        program=PROGRAM,
        description="Distil language models with the lens.",
        package="distillens_plugin.commands",
        names=COMMANDS,
    )


if __name__ == "__main__":
    sys.exit(main())
