"""How every command ends: one line on stderr and an exit code that scripts can rely on.

0 success, 1 a failure while running, 2 bad input; 128 plus the signal's number if a signal ended
it: 130 SIGINT, 143 SIGTERM, 138 SIGUSR1, 129 SIGHUP; 141 if nobody reads its output any more.

Only light modules are imported here, and the heavy ones by the commands themselves, so that signal
handlers are in place from the first moment.
"""

import argparse
import atexit
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TextIO

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.program.early import words
from eval_harness.shared.program.launcher import is_main_process, let_main_process_speak
from eval_harness.shared.program.one_line import one_line
from eval_harness.shared.program.signals import SignalGuard, Terminated

_BROKEN_PIPE_CODE = 141  # 128 + SIGPIPE, as a shell reports `yes | head -1`


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error of the commands."""

    def error(self, message: str) -> NoReturn:
        if not is_main_process():
            let_main_process_speak()
            self.exit(2)
        self.exit(2, f"{self.prog}: {one_line(message)} (--help shows the options)\n")


class Invocation(NamedTuple):
    """What a command line asks for.

    Attributes:
        command: does the work; returns an exit code, or None for 0.
        program: the name that starts the line on stderr.
        debug: print the traceback as well.
    """

    command: Callable[[], int | None]
    program: str
    debug: bool = False


def run_command(command: Callable[[], int | None], *, program: str, debug: bool = False) -> int:
    """Calls `command` and turns what it raises into one line on stderr and an exit code.

    Args:
        command, program, debug: see `Invocation`.
    """
    return run_program(lambda: Invocation(command, program, debug), program=program)


def run_program(
    parse: Callable[[], Invocation], *, program: str, ends_process: bool = False
) -> int:
    """As `run_command`, for a command line that has not been read yet.

    Args:
        parse: reads the command line; may raise SystemExit, as argparse does, which passes through.
        program: the name in errors until then.
        ends_process: the process ends with the returned code: until then signals stay harmless,
            and standard output need not be usable any more.
    """
    guard = SignalGuard()
    previous_hook = sys.unraisablehook

    def forget_no_signal(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated):
            guard.redeliver()
        else:
            previous_hook(unraisable)

    if ends_process:
        # The first function registered is the last one called.
        atexit.register(guard.ignore)
        if sys.stdout is None:  # closed by the caller (`>&-`)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
    sys.unraisablehook = forget_no_signal
    ending = _Ending(program, guard)
    try:
        return ending.of(parse)
    finally:
        if not ends_process:
            sys.unraisablehook = previous_hook
            guard.restore()


class _Ending:
    """Turns what a command raises into its line and its exit code."""

    def __init__(self, program: str, guard: SignalGuard) -> None:
        self._program = program
        self._debug = False
        self._guard = guard

    def of(self, parse: Callable[[], Invocation]) -> int:
        try:
            self._guard.install()
            try:
                invocation = parse()
                self._program, self._debug = invocation.program, invocation.debug
                code = invocation.command() or 0
            finally:
                _flush_output()
            self._guard.end(code)
        except SystemExit as end:
            self._guard.end(end.code if isinstance(end.code, int) else 1)
            raise
        except BaseException as error:
            self._guard.end(1)
            if self._guard.first is None:
                code = self._of_error(error)
            else:
                # Other code may have turned the signal's exception into another one.
                code = self._report_signal(self._guard.first)
            self._guard.end(code)
        return code

    def _of_error(self, error: BaseException) -> int:
        if isinstance(error, KeyboardInterrupt):
            return self._report_signal(signal.SIGINT)
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if isinstance(error, BrokenPipeError) and closed:
            for stream in closed:
                _discard(stream)
            return _BROKEN_PIPE_CODE
        if isinstance(error, DistillensError):
            if error.said_elsewhere:
                return error.exit_code
            return self._report(str(error), error.exit_code)
        if not isinstance(error, Exception):
            raise error
        hint = "" if self._debug else " (--debug shows the traceback)"
        return self._report(f"{type(error).__name__}: {error}{hint}", 1)

    def _report_signal(self, number: int) -> int:
        return self._report(words(number), 128 + number)

    def _report(self, message: str, code: int) -> int:
        try:
            if self._debug:
                import traceback

                traceback.print_exc()
            print(f"{self._program}: {one_line(message)}", file=sys.stderr, flush=True)
        except OSError:  # nobody reads it; the exit code still reports the error
            _discard(sys.stderr)
        return code


def _flush_output() -> None:
    """Flushes now: when the interpreter ends it could only print a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stdout)
        raise RunFailure(f"standard output cannot be written: {error.strerror}") from error


def _is_closed(stream: TextIO | None) -> bool:
    """Whether the other end of the pipe (or socket) that we print to is closed."""
    descriptor = _descriptor(stream)
    if descriptor is None:
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard(stream: TextIO) -> None:
    """Drops what is still in the buffer, which would fail again at the very end."""
    descriptor = _descriptor(stream)
    if descriptor is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def _descriptor(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):  # a stream without a file, as in tests
        return None
