"""metrics.jsonl and experiment trackers: the numbers that a run reports as it runs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from accelerate import Accelerator

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
