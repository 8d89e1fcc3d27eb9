"""metrics.jsonl and experiment trackers: the numbers that a run reports as it runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from distillens_plugin.training.record_file import RecordFile
from distillens_plugin.training.validation_terms import PREFIX

VALIDATION_LOSS = "validation_loss"
_TRACKER_NAMES = {
    VALIDATION_LOSS: "loss",
    "lr": "learning_rate",
    "tokens_per_s": "tokens_per_second",
}


class Metrics:
    """Writes each record as one line of `metrics.jsonl` and to accelerate's trackers.

    Only the main process writes.

    Args:
        keep_bytes: of an interrupted run's file; what follows them is written again.
    """

    def __init__(self, path: Path, accelerator: Accelerator, keep_bytes: int = 0) -> None:
        self.accelerator = accelerator
        self._file = RecordFile(path, keep_bytes) if accelerator.is_main_process else None
        if self._file is not None:
            # A state copies it, even one that is kept before the first record.
            path.touch()

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record; trackers get its numbers under the names of `tracker_numbers`.

        Raises:
            RunFailure: the file cannot be written.
        """
        if self._file is None:
            return
        self._file.write(record)
        self.accelerator.log(tracker_numbers(record), step=record.get("step"))

    def sync(self) -> None:
        """Makes the file durable, before a state copies it.

        Raises:
            RunFailure: the disk is full or broken.
        """
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self.accelerator.end_training()


def tracker_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """A record as trackers group it: `train/loss`, `train/lens/1-2`, `val/loss`, `val/kd`.

    The file keeps the short names that its readers know: `loss`, `validation_loss`.
    """
    kind = "val" if VALIDATION_LOSS in record else "train"
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if name == "step" or not isinstance(value, (int, float)):
            continue
        if name == "epoch" or name.startswith(PREFIX):
            numbers[name] = value
        else:
            numbers[f"{kind}/{_TRACKER_NAMES.get(name, name)}"] = value
    return numbers
