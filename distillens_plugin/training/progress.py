"""How far a run is, for people: a bar on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Mapping

from accelerate import Accelerator
from huggingface_hub.utils import disable_progress_bars
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging


def no_bars_in_logs() -> None:
    """Switches off transformers' and the Hub's own bars where there is no terminal."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
        disable_progress_bars()


# Steps after each start in which kernels are compiled and memory is taken.
_WARM_UP = 10


class Progress:
    """Loss, tokens a second and the time left, on standard error.

    A terminal shows a bar. Elsewhere a bar would fill the log with its own refreshes, so each
    record is one line. Only the main process shows anything.
    """

    def __init__(self, num_steps: int, accelerator: Accelerator) -> None:
        self._shows = accelerator.is_main_process
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=num_steps,
            unit="step",
            disable=not (self._shows and terminal),
            dynamic_ncols=True,
            mininterval=0.5,
        )
        self._prints = self._shows and not terminal
        self._num_steps = num_steps
        self._step, self._first_step = 0, 0
        self._tokens = 0.0
        self._seconds = self._first_seconds = 0.0
        self._warm_steps = self._warm_seconds = 0.0
        self._resumed_at = time.perf_counter()

    def step(self, loss: float, num_tokens: float) -> None:
        """One optimiser step over `num_tokens` tokens (of all ranks, without padding)."""
        now = time.perf_counter()
        self._seconds += now - self._resumed_at
        if self._step - self._first_step < _WARM_UP:
            self._warm_seconds += now - self._resumed_at
            self._warm_steps += 1
        self._resumed_at = now
        self._tokens += num_tokens
        self._step += 1
        self._bar.set_postfix_str(
            f"loss {loss:.3f}, {self.tokens_per_s:,.0f} tokens/s", refresh=False
        )
        self._bar.update()

    def show_record(self, *, loss: float | None, learning_rate: float) -> None:
        """The line of a record, where there is no bar.

        Args:
            loss: the mean since the last record; None if it is not finite.
        """
        if not self._prints:
            return
        shown = "not finite" if loss is None else f"{loss:.4f}"
        print(
            f"step {self._step}/{self._num_steps}: loss {shown}, lr {learning_rate:.3g}, "
            f"{self.tokens_per_s:,.0f} tokens/s, {self._time_left()} left",
            file=sys.stderr,
            flush=True,
        )

    def _time_left(self) -> str:
        """At the pace of the steps since the start or the resume, without validation."""
        taken = self._step - self._first_step
        pace = (self._seconds - self._first_seconds) / taken if taken else 0.0
        return tqdm.format_interval(pace * (self._num_steps - self._step))

    def pause(self) -> None:
        """Validation and saving do not count as training time."""
        self._seconds += time.perf_counter() - self._resumed_at

    def resume(self) -> None:
        self._resumed_at = time.perf_counter()

    @property
    def tokens_per_s(self) -> float:
        return self._tokens / self._seconds if self._seconds > 0 else 0.0

    @property
    def train_seconds(self) -> float:
        return self._seconds

    @property
    def seconds_per_step(self) -> float:
        """Mean without the first ten steps after each start, unless few others were taken."""
        taken, seconds = self._step - self._warm_steps, self._seconds - self._warm_seconds
        if taken < _WARM_UP:
            taken, seconds = self._step, self._seconds
        return seconds / taken if taken else 0.0

    def state(self) -> dict[str, float]:
        """Tokens, seconds and steps so far, for `restore`."""
        return {
            "tokens": self._tokens,
            "seconds": self._seconds,
            "warm_seconds": self._warm_seconds,
            "warm_steps": self._warm_steps,
        }

    def restore(self, state: Mapping[str, float], num_steps: int) -> None:
        """Starts after `num_steps` steps."""
        self._tokens, self._seconds = state["tokens"], state["seconds"]
        # An older version's state has none of these.
        self._warm_seconds = state.get("warm_seconds", 0.0)
        self._warm_steps = state.get("warm_steps", 0.0)
        self._step, self._first_step, self._first_seconds = num_steps, num_steps, self._seconds
        self._bar.update(num_steps)
        # The pace on the bar is that of the steps still to come.
        self._bar.initial = num_steps
        self.resume()

    def say(self, text: str) -> None:
        """A line of its own on standard output, above the bar if there is one."""
        if self._prints:
            print(text, flush=True)
        elif self._shows:
            self._bar.write(text)

    def close(self) -> None:
        self._bar.close()
