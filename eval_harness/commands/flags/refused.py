"""lm-eval's flags that mean nothing here: each is refused with what to use instead."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

# flag -> (its short form, why it is refused and what to do).
REFUSED: dict[str, tuple[str | None, str]] = {
    "use_cache": (
        "-c",
        "answers are kept in --output_path, and the same command resumes from them; drop the flag",
    ),
    "cache_requests": (
        None,
        "prompts are not cached: they are made in seconds, and answers are kept in --output_path; "
        "drop the flag",
    ),
    "max_batch_size": (
        None,
        "--batch_size auto finds its own size; give --batch_size N for at most N rows at once",
    ),
    "verbosity": (
        "-v",
        "there are no log levels: notes go to standard error, and --debug shows a traceback; drop "
        "the flag",
    ),
    "trackio_args": (
        None,
        "nothing is sent to Trackio from here; log the numbers of the results file with "
        "trackio.log",
    ),
    "confirm_run_unsafe_code": (
        None,
        "no benchmark runs code of a model's answers; drop the flag",
    ),
    "metadata": (
        None,
        "no benchmark makes its rows from metadata; name other rows with --data TASK=PATH",
    ),
}


def refusal(flag: str) -> str:
    """One line about a flag of `REFUSED`."""
    return f"--{flag} is a flag of lm-eval that does not apply here: {REFUSED[flag][1]}"


class Refuse(argparse.Action):
    """Ends the command with the flag's line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(refusal(self.dest))


def add_refused_flags(parser: argparse.ArgumentParser) -> None:
    """Adds lm-eval's other flags, which `--help` does not list."""
    for flag, (short, _) in REFUSED.items():
        names = [f"--{flag}", *([short] if short else [])]
        parser.add_argument(*names, nargs="*", action=Refuse, help=argparse.SUPPRESS)
