"""Signals that end a command: raised as exceptions, deferred over steps that must complete.

SIGINT, SIGTERM, SIGHUP (the terminal is gone), SIGUSR1, SIGUSR2 and SIGXCPU (which batch systems
send before time is up) become an exception, so that `finally` blocks run. Only light modules are
imported here: this is loaded before anything slow.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from eval_harness.shared.program.early import ENDING_SIGNALS

# What signal.getsignal returns.
Handler = Callable[[int, FrameType | None], object] | int | None
# Signals that follow the first within this time count as the same request: a launcher forwards
# what the terminal has already sent. Later ones interrupt a shutdown that takes too long.
_PATIENCE_S = 10.0


class Interrupted(KeyboardInterrupt):
    """SIGINT, as a class of its own.

    If KeyboardInterrupt itself passes through Python code that C runs, such as the import of an
    extension module, the interpreter later ends by SIGINT, whatever exit code it is given.
    """


class Terminated(BaseException):
    """A signal other than SIGINT, raised wherever the program is.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Defers ending signals until the block is left, for steps that must not be separated.

    For short work, such as the two renames that replace a folder. Blocks may be nested; the
    outermost one delivers. Outside the main thread, where no signals arrive, it does nothing.
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
    """Replaces the handlers, and afterwards passes them what arrived."""

    def __init__(self) -> None:
        self._holding = True
        self._pending: list[int] = []
        self._previous: dict[int, Handler] = {}

    def start(self) -> None:
        for number in ENDING_SIGNALS:
            handler = signal.getsignal(number)
            # None: a handler set by C code, which could not be restored.
            if handler is not None and handler != signal.SIG_IGN:
                self._previous[number] = handler
                signal.signal(number, self)

    def stop(self) -> None:
        # From here on a recorder that is still in place passes signals on. So a signal that
        # interrupts the restoring of the handlers leaves none of them deaf.
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

    The first signal raises KeyboardInterrupt (SIGINT) or `Terminated`. Those that follow shortly
    count as the same request and do not change how the command ends. A signal that the caller
    ignores (nohup, a shell's background job) stays ignored.

    Attributes:
        first: the number of the first signal; None before it.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._came_at = 0.0
        self._exit_code: int | None = None
        self._process = os.getpid()
        self._previous: dict[int, Handler] = {}

    def install(self) -> None:
        """Installs the handlers; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDING_SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None and handler != signal.SIG_IGN:
                self._previous[number] = handler
                signal.signal(number, self)

    def restore(self) -> None:
        """Restores the previous handlers."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def end(self, exit_code: int) -> None:
        """From here on the command is ending, and signals no longer change how.

        Args:
            exit_code: of the process, in case a signal interrupts a shutdown that takes too long.
        """
        self._exit_code = exit_code

    def ignore(self) -> None:
        """Ignores signals at the very end, when the interpreter no longer calls our handlers."""
        for number in self._previous:
            signal.signal(number, signal.SIG_IGN)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked worker: it has nothing to clean up, and its parent reports the signal.
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
        """Sends the first signal again in a moment.

        Its exception was raised where Python can only print and drop it, such as in a destructor.
        """
        number, self.first = self.first, None
        if number is not None:
            timer = threading.Timer(0.05, os.kill, (self._process, number))
            timer.daemon = True
            timer.start()
