"""Signals that end a command: raised where the program stands, put off over what must be whole.

SIGINT, SIGTERM, SIGHUP (the terminal is gone), SIGUSR1, SIGUSR2 and SIGXCPU (what batch systems
send before time is up) become an exception, so that `finally` blocks run. Only light modules are
imported here: this is loaded before anything that takes long.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from eval_harness.shared.program.early import ENDING_SIGNALS

# What signal.getsignal gives.
Handler = Callable[[int, FrameType | None], object] | int | None
# Signals that follow the first within this time are part of the same wish to end: a launcher
# passes on what the terminal has sent already. Later ones interrupt an end that takes too long.
_PATIENCE_S = 10.0


class Interrupted(KeyboardInterrupt):
    """SIGINT. A class of its own: where KeyboardInterrupt itself passes through code that C has
    Python run, as in the imports of extension modules, the interpreter ends by SIGINT in the end
    whatever exit code it is given.
    """


class Terminated(BaseException):
    """A signal other than SIGINT, raised where the program stands.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Puts ending signals off until the block is left, for steps that must not be torn apart.

    For a moment's work, such as the two renames that replace a folder. Blocks may be nested; the
    outermost one delivers. In other threads than the main one, which get no signals, nothing
    happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    recorder = _Recorder()
    try:
        recorder.start()
        yield
    finally:
        recorder.stop()


class _Recorder:
    """Takes the place of the handlers, and gives what came to them afterwards."""

    def __init__(self) -> None:
        self._holding = True
        self._pending: list[int] = []
        self._previous: dict[int, Handler] = {}

    def start(self) -> None:
        for number in ENDING_SIGNALS:
            handler = signal.getsignal(number)
            # None: not Python's own handler, which could not be put back.
            if handler is not None and handler != signal.SIG_IGN:
                self._previous[number] = handler
                signal.signal(number, self)

    def stop(self) -> None:
        # From here on a recorder that is still in place passes signals on, so one that comes
        # while the handlers are put back, and ends that half-way, leaves none deaf.
        self._holding = False
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(self._pending):
            signal.raise_signal(number)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            self._pending.append(number)
            return
        handler = self._previous[number]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, handler)
            signal.raise_signal(number)


class SignalGuard:
    """The handlers of a command, from its first line to its last.

    The first signal raises KeyboardInterrupt (SIGINT) or `Terminated`. Those that follow it shortly
    are taken for the same wish, and change nothing about how the command ends. A signal that the
    caller has set to be ignored (nohup, a shell's background job) stays so.

    Attributes:
        first: the number of the first signal; None before.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._came_at = 0.0
        self._exit_code: int | None = None
        self._process = os.getpid()
        self._previous: dict[int, Handler] = {}

    def install(self) -> None:
        """Takes over the handlers; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDING_SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None and handler != signal.SIG_IGN:
                self._previous[number] = handler
                signal.signal(number, self)

    def restore(self) -> None:
        """Gives the handlers back."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def end(self, exit_code: int) -> None:
        """From here on the command is only ending: signals no longer change how.

        Args:
            exit_code: what the process is about to end with, for a signal that ends an end that
                takes too long.
        """
        self._exit_code = exit_code

    def ignore(self) -> None:
        """For the very end, where the interpreter no longer calls handlers of ours."""
        for number in self._previous:
            signal.signal(number, signal.SIG_IGN)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked worker: it has nothing to tidy up, and its parent reports.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        now = time.monotonic()
        if self.first is None:
            self.first, self._came_at = number, now
        elif now - self._came_at < _PATIENCE_S:
            return
        elif self._exit_code is not None:
            os._exit(self._exit_code)
        if self._exit_code is None:
            if number == signal.SIGINT:
                raise Interrupted
            raise Terminated(number)

    def redeliver(self) -> None:
        """Lets the first signal come again in a moment.

        Its exception came up where Python can only print and forget one, such as in a destructor.
        """
        number, self.first = self.first, None
        if number is not None:
            timer = threading.Timer(0.05, os.kill, (self._process, number))
            timer.daemon = True
            timer.start()
