"""The moment at which the processes of a run find each other."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from eval_harness.shared.program.signals import ENDING_SIGNALS


@contextmanager
def signals_end_at_once() -> Iterator[None]:
    """Within the block, signals end this process as they would without any handler.

    torch waits in C for processes that may never come, and Python's handlers run only between two
    of its own instructions. Nothing is held yet that would have to be given back.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING_SIGNALS:
            # What is ignored stays ignored (nohup); what came from C cannot be put back.
            if callable(signal.getsignal(number)):
                previous[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
