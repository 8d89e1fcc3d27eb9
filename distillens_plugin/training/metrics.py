"""metrics.jsonl, experiment trackers and the progress bar: what a run reports as it runs."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from accelerate import Accelerator
from tqdm.auto import tqdm

from eval_harness.errors import RunFailure


class Metrics:
    """Writes each record as one line of `metrics.jsonl` and to accelerate's trackers.

    Only the main process writes.

    Args:
        keep_bytes: of an interrupted run's file; what follows them is written again.
    """

    def __init__(self, path: Path, accelerator: Accelerator, keep_bytes: int = 0) -> None:
        self.accelerator = accelerator
        self._file: TextIO | None = None
        if accelerator.is_main_process:
            self._file = path.open("a", encoding="utf-8")
            self._file.truncate(keep_bytes)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record; nested numbers become `a/b` in trackers.

        Raises:
            RunFailure: the file cannot be written.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunFailure(f"{self._file.name}: cannot write metrics ({error})") from error
        numbers = {k: v for k, v in _flatten(record) if isinstance(v, (int, float))}
        self.accelerator.log(numbers, step=record.get("step"))

    def sync(self) -> None:
        """Makes the file durable, before a state copies it.

        Raises:
            RunFailure: the disk is full or broken.
        """
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunFailure(f"{self._file.name}: cannot write metrics ({error})") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self.accelerator.end_training()


def _flatten(record: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        flat += _flatten(value, f"{name}/") if isinstance(value, dict) else [(name, value)]
    return flat


class Progress:
    """A bar with loss, tokens a second and the time left."""

    def __init__(self, num_steps: int, accelerator: Accelerator) -> None:
        self._bar = tqdm(
            total=num_steps,
            unit="step",
            disable=not accelerator.is_main_process,
            dynamic_ncols=True,
            # A log file would grow by a line for each refresh.
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )
        self._tokens = 0.0
        self._seconds = 0.0
        self._resumed_at = time.perf_counter()

    def step(self, loss: float, num_tokens: float) -> None:
        """One optimiser step over `num_tokens` tokens (of all ranks, without padding)."""
        now = time.perf_counter()
        self._seconds += now - self._resumed_at
        self._resumed_at = now
        self._tokens += num_tokens
        self._bar.set_postfix_str(
            f"loss {loss:.3f}, {self.tokens_per_s:,.0f} tokens/s", refresh=False
        )
        self._bar.update()

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

    def state(self) -> dict[str, float]:
        """Tokens and seconds so far, for `restore`."""
        return {"tokens": self._tokens, "seconds": self._seconds}

    def restore(self, state: Mapping[str, float], num_steps: int) -> None:
        """Starts the bar after `num_steps` steps."""
        self._tokens, self._seconds = state["tokens"], state["seconds"]
        self._bar.update(num_steps)
        # The pace on the bar is that of the steps still to come.
        self._bar.initial = num_steps
        self.resume()

    def say(self, text: str) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            self._bar.write(text)

    def close(self) -> None:
        self._bar.close()


class Averages:
    """Means of loss, terms and layer pairs over the steps since the last record."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, values: dict[str, float]) -> None:
        self._steps += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def state(self) -> dict[str, Any]:
        """The sums so far, for `restore`."""
        return {"sums": self._sums, "steps": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._sums, self._steps = dict(state["sums"]), state["steps"]

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = (
            {name: value / self._steps for name, value in self._sums.items()} if self._steps else {}
        )
        self._sums, self._steps = {}, 0
        return {name: value for name, value in means.items() if math.isfinite(value)}
