"""Finished answers on disk, one line each, so that an interrupted run goes on where it stopped.

<output_path>/<model>/answers_<task>_<fingerprint>.jsonl: a first line that says what the answers
depend on, then one line for each. A line is written with a single system call as soon as its answer
is finished, so a killed process loses nothing that was finished; a torn last line is dropped.
"""

import os
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.jsonl import encode_row, read_jsonl
from eval_harness.results import digest


class AnswerStore:
    """Append-only rows under keys, all made under one fingerprint.

    Args:
        path: made if missing; its folder must exist and be locked by the caller.
        settings: what the rows depend on; a file with other settings is refused.
    Raises:
        DistillensError: the file was made under other settings, or a line in it is malformed.
        RunFailure: it cannot be read or written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        header = {"fingerprint": digest(settings), "settings": settings}
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                self.num_torn_bytes = self._drop_torn_line()
                if os.fstat(self._descriptor).st_size == 0:
                    self._write_line(header)
                else:
                    self._read(header)
            except BaseException:
                os.close(self._descriptor)
                raise
        except OSError as error:
            raise RunFailure(f"{path}: cannot be used: {error.strerror}") from error

    def add(self, key: tuple[str, ...], row: dict[str, Any]) -> None:
        """Appends one finished row and hands it to the operating system.

        Raises:
            RunFailure: it cannot be written (a full disk, for instance).
        """
        if key in self.rows:
            raise ValueError(f"{key} is already in {self.path}")
        self._write_line({"key": list(key), **row})
        self.rows[key] = row

    def close(self) -> None:
        """Makes the rows durable and closes the file."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _drop_torn_line(self) -> int:
        """Cuts what follows the last line feed; returns how many bytes that was."""
        size = os.fstat(self._descriptor).st_size
        end, block = size, 1 << 16
        while end > 0:
            start = max(0, end - block)
            position = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if position >= 0:
                end = start + position + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._descriptor, end)
        return size - end

    def _read(self, header: dict[str, Any]) -> None:
        for line, row in read_jsonl(self.path):
            where = f"{self.path}:{line}"
            if line == 1:
                if row.get("fingerprint") != header["fingerprint"]:
                    raise DistillensError(
                        f"{where}: made under {row.get('fingerprint')}, this run is "
                        f"{header['fingerprint']}; give another output path"
                    )
                continue
            key = row.pop("key", None)
            if not isinstance(key, list) or not all(isinstance(part, str) for part in key):
                raise DistillensError(
                    f"{where}: no key, so not a row of this store; remove the line"
                )
            self.rows[tuple(key)] = row

    def _write_line(self, row: dict[str, Any]) -> None:
        line = (encode_row(row) + "\n").encode("utf-8")
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise RunFailure(f"{self.path}: cannot be written: {error.strerror}") from error
        if written != len(line):
            # The torn line is dropped by the next run; going on would glue two rows together.
            raise RunFailure(f"{self.path}: only part of a row could be written; is the disk full?")
