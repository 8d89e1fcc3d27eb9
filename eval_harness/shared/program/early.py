"""Signals before a command can handle them itself: the same line, the same exit code."""

import os
import signal
import sys
from types import FrameType

# By name: not every system has all of them.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
ENDING_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_WORDS = {
    "SIGINT": "interrupted",
    "SIGTERM": "terminated",
    "SIGHUP": "ended by SIGHUP: its terminal was closed",
    "SIGUSR1": "ended by SIGUSR1, which batch systems send before time is up",
}


def words(number: int) -> str:
    """What a command prints when this signal ended it."""
    name = signal.Signals(number).name
    return _WORDS.get(name, f"ended by {name}")


def end_at_once(program: str) -> None:
    """Until a command takes over, a signal ends the process at once, with its line and code.

    For the first moments of our own process, when there is nothing to clean up yet. Signals that
    the caller ignores or handles stay as they are.
    """

    def end(number: int, frame: FrameType | None) -> None:
        try:
            os.write(2, f"{program}: {words(number)}\n".encode())
        finally:
            os._exit(128 + number)

    for number in ENDING_SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end)


def is_program(name: str) -> bool:
    """Whether this process is the console script of that name."""
    return bool(sys.argv) and os.path.splitext(os.path.basename(sys.argv[0]))[0] == name
