"""`--print-completion`: a shell's completion script for a command, written by shtab."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from eval_harness.errors import DistillensError

SHELLS = ("bash", "zsh", "tcsh")


class PrintCompletion(argparse.Action):
    """Prints the script and ends the command; shtab is imported only then."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        try:
            import shtab
        except ImportError as error:
            raise DistillensError(f"{option_string} needs shtab; run: pip install shtab") from error
        print(shtab.complete(parser, shell=str(values)))
        parser.exit()


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Adds the flag to a program's parser."""
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help="print a completion script for this shell",
    )
