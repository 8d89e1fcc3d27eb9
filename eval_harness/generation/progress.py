"""How far a run is: a bar on a terminal, elsewhere a plain line now and then."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Never

from eval_harness.generation.processes import ALONE, Processes
from eval_harness.shared.program.launcher import is_main_process

if TYPE_CHECKING:
    from tqdm import tqdm

# Often enough for whoever watches a log file, and no more than some thousand lines in a day.
SAY_EVERY_S = 30.0


class Progress:
    """Of a step that all processes of a run share; the main one shows it.

    Args:
        total: how many there are.
        done: how many an earlier run has left.
        unit: what is counted, in the singular.
        processes: those that share the step.
    """

    def __init__(self, total: int, done: int, *, unit: str, processes: Processes = ALONE) -> None:
        self._total, self._done, self._unit = total, done, unit
        self._is_main = processes.is_main
        self._counter = processes.counter()
        self._started = self._said_at = time.monotonic()
        self._bar: tqdm[Never] | None = None

    def __enter__(self) -> "Progress":
        if self._is_main and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, initial=self._done, unit=self._unit, dynamic_ncols=True
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            if error is None:
                self._move_bar(self._bar)
            self._bar.close()

    def add(self, num_tokens: int) -> None:
        """One more is done."""
        self._counter.add(1, num_tokens)
        self.tick()

    def flush(self) -> None:
        """To be called when this process has done its share."""
        self._counter.flush()

    def tick(self) -> None:
        """Shows what all processes have done, if it is time for it."""
        if self._bar is not None:
            if time.monotonic() - self._said_at >= self._bar.mininterval:
                self._said_at = time.monotonic()
                self._move_bar(self._bar)
        elif self._is_main and time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            print(f"eval-harness: {self.line()}", file=sys.stderr, flush=True)

    def totals(self) -> tuple[int, int]:
        """(how many, tokens) that all processes have done since the start."""
        return self._counter.totals()

    def line(self) -> str:
        """What is done, how fast, and how long the rest may take."""
        num, num_tokens = self.totals()
        seconds = max(self.seconds(), 1e-9)
        text = f"{self._done + num} of {self._total} {self._unit}s"
        if num == 0:
            return f"{text} after {in_words(seconds)}"
        left = (self._total - self._done - num) * seconds / num
        return (
            f"{text}, {num / seconds:.1f} {self._unit}s/s, {num_tokens / seconds:.0f} tokens/s, "
            f"about {in_words(left)} left"
        )

    def _move_bar(self, bar: "tqdm[Never]") -> None:
        bar.update(self._done + self.totals()[0] - bar.n)

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started


def in_words(seconds: float) -> str:
    """A duration with as much precision as one needs: 41 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def said_to_last(what: str) -> Iterator[None]:
    """For a step that cannot be counted: a line now and then that it is still going on.

    Args:
        what: the step, as in "scoring dolly".
    """
    ended = threading.Event()
    started = time.monotonic()

    def say_now_and_then() -> None:
        while not ended.wait(SAY_EVERY_S):
            line = f"eval-harness: {what}: {in_words(time.monotonic() - started)} so far"
            print(line, file=sys.stderr, flush=True)

    if not is_main_process():
        yield
        return
    thread = threading.Thread(target=say_now_and_then, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
