"""SIGTERM and SIGUSR1 while training: a state is kept at the next step, then the run ends.

A batch system sends one of them some time before it ends a job, to every process or to only one.
"""

import os
import signal
import threading
import time
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator

from eval_harness.shared.program.signals import Handler

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A launcher forwards what a batch system has already sent to all: that is no second signal.
_ONE_REQUEST_S = 2.0


class StopSignals:
    """Within the block, the first SIGTERM or SIGUSR1 is only noted, for `agreed`.

    A second one goes where it would have gone without the block, and ends the command at once.
    """

    def __init__(self) -> None:
        self._number = 0
        self._came_at = 0.0
        self._process = os.getpid()
        self._previous: dict[int, Handler] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                # Only where a command made it an ordinary end; elsewhere it is the caller's matter.
                if callable(handler):
                    self._previous[number] = handler
                    signal.signal(number, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Puts the previous handlers back."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def agreed(self, accelerator: Accelerator) -> int:
        """The number of the signal that any process got, 0 without one; all of them call it."""
        if accelerator.num_processes == 1:
            return self._number
        mine = torch.tensor([self._number], device=accelerator.device)
        return int(accelerator.gather(mine).max())

    def end(self, number: int) -> None:
        """Ends the command as the signal alone would have: 143 or 138."""
        handler = self._previous.get(number)
        self.restore()
        if callable(handler):
            handler(number, None)
        # Without a handler of the command (in a thread, or called from Python) the caller decides.
        raise KeyboardInterrupt

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() == self._process:
            if self._number == 0:
                self._number, self._came_at = number, now
                return
            if now - self._came_at < _ONE_REQUEST_S:
                return
        handler = self._previous[number]
        if callable(handler):
            handler(number, frame)
