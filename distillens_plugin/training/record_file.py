"""A file of JSON lines that grows with a run, and is cut back where the run is resumed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from distillens_plugin.storage.run_folder import GROWING
from eval_harness.errors import RunFailure


def kept_bytes(state: Path) -> dict[str, int]:
    """Length of each growing file when a state was kept; later lines are written again.

    Args:
        state: the folder of the state; one of an earlier version lacks some of the files.
    """
    files = {name: state / name for name in GROWING}
    return {name: path.stat().st_size if path.is_file() else 0 for name, path in files.items()}


class RecordFile:
    """Appends records to a file of the run's folder; it is made with the first one.

    Only the main process makes one of these.

    Args:
        keep_bytes: of an interrupted run's file; what follows them is removed at once.
    """

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self.path = path
        self._file: TextIO | None = None
        if path.is_file():
            try:
                os.truncate(path, keep_bytes)
            except OSError as error:
                raise self._failure(error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record as one line, which others can read at once.

        Raises:
            RunFailure: the file cannot be written.
        """
        try:
            if self._file is None:
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from error

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
            raise self._failure(error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _failure(self, error: OSError) -> RunFailure:
        return RunFailure(f"{self.path}: cannot write to it ({error})")
