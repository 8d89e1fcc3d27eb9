"""How every command ends: one line on stderr and an exit code that scripts can rely on.

0 success, 1 a failure while running, 2 bad input, 130 and 143 interrupted by SIGINT and SIGTERM.
"""

import argparse
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from eval_harness.errors import DistillensError


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error of the commands."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help shows the options)\n")


class Terminated(BaseException):
    """SIGTERM, raised where the program stands, so that `finally` blocks still run."""


def _raise_terminated(signal_number: int, frame: object) -> None:
    raise Terminated


def run_command(command: Callable[[], int | None], *, program: str, debug: bool = False) -> int:
    """Calls `command` and turns what it raises into one line on stderr and an exit code.

    Args:
        command: does the work; returns an exit code, or None for 0.
        program: the name that starts the line.
        debug: print the traceback as well.
    """
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        return command() or 0
    except DistillensError as error:
        return _report(program, str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _report(program, "interrupted", 130, debug)
    except Terminated:
        return _report(program, "terminated", 143, debug)
    except Exception as error:
        hint = "" if debug else " (--debug shows the traceback)"
        return _report(program, f"{type(error).__name__}: {error}{hint}", 1, debug)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _report(program: str, message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code
