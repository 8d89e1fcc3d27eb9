"""The command `eval-harness`: one subcommand for each module of `eval_harness.commands`."""

from eval_harness.shared.program.early import end_at_once, is_program

if is_program("eval-harness"):
    end_at_once("eval-harness")

from collections.abc import Sequence

from eval_harness.shared.program.command import Invocation, run_program
from eval_harness.shared.program.subcommands import read_command_line

PROGRAM = "eval-harness"
COMMANDS = ("run", "score", "compare", "judge", "report", "ls", "validate", "export_lm_eval")


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
        description="Generate and score instruction-following benchmarks.",
        package="eval_harness.commands",
        names=COMMANDS,
        implied="run",
    )
