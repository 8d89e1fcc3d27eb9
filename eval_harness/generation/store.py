"""Finished answers on disk, one line each, so that an interrupted run resumes where it stopped.

<output_path>/<model>/answers_<task>_<fingerprint>.jsonl: the first line says what the answers
depend on, then each answer has a line. A line is written with a single system call as soon as its
answer is finished, so a killed process loses no finished answer; a torn last line is dropped.

Where several processes share a run, the others write parts beside it (..._<fingerprint>.rank1.jsonl
and so on): appending is atomic on one machine, but not on network file systems. The main process
takes the parts in when they are finished, and those of a killed run when the store is opened.
"""

import glob
import os
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.digest import digest
from eval_harness.shared.files.jsonl import encode_row, read_jsonl
from eval_harness.shared.files.typed_json import check, shown


class AnswerStore:
    """Append-only rows under keys, all made under one fingerprint.

    Args:
        path: made if missing; its folder must exist and be locked by the caller.
        settings: what the rows depend on; a file with other settings is refused.
        row: what a row must contain besides its key.
    Raises:
        DistillensError: the file is not a store, was made under other settings, or has a malformed
            line. It is left as it was.
        RunFailure: it cannot be read or written.

    Attributes:
        rows: by their keys.
        num_torn_bytes: of a row that was being written when its run was killed.
    """

    def __init__(self, path: Path, settings: dict[str, Any], row: type[BaseModel]) -> None:
        self.path = path
        self.settings = settings
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        self.num_torn_bytes = 0
        self._row = row
        header = {"fingerprint": digest(settings), "settings": settings}
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                self._begin(header)
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

    def sync(self) -> None:
        """Makes the rows durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Makes the rows durable and closes the file."""
        self.sync()
        os.close(self._descriptor)

    def take_parts(self) -> None:
        """Moves the rows of all parts, finished or left by a killed run, into this file.

        Raises:
            DistillensError, RunFailure: as when a store is opened.
        """
        pattern = f"{glob.escape(self.path.stem)}.rank*{self.path.suffix}"
        for path in sorted(self.path.parent.glob(pattern)):
            part = AnswerStore(path, self.settings, self._row)
            part.close()
            for key, row in part.rows.items():
                # Both have it if a run was killed between the next two steps.
                if key not in self.rows:
                    self.add(key, row)
            self.sync()
            path.unlink()

    def _begin(self, header: dict[str, Any]) -> None:
        """Reads the file after checking that it is ours, or begins it."""
        first = _line(header)
        size, end = self._size_and_end()
        if end > 0:
            self._check_header(header)
        elif not first.startswith(os.pread(self._descriptor, min(size, len(first) + 1), 0)):
            self._refuse_foreign(1)
        # What follows the last line feed was being written when its run was killed.
        if end < size:
            os.ftruncate(self._descriptor, end)
            self.num_torn_bytes = size - end
        if end == 0:
            self._write_line(header)
        else:
            self._read()

    def _size_and_end(self) -> tuple[int, int]:
        """Bytes of the file, and bytes up to its last line feed."""
        size = os.fstat(self._descriptor).st_size
        end, block = size, 1 << 16
        while end > 0:
            start = max(0, end - block)
            position = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if position >= 0:
                end = start + position + 1
                break
            end = start
        return size, end

    def _check_header(self, header: dict[str, Any]) -> None:
        line, found = next(read_jsonl(self.path))
        fingerprint = found.get("fingerprint")
        if line != 1 or not isinstance(fingerprint, str):
            self._refuse_foreign(line)
        if fingerprint != header["fingerprint"]:
            raise DistillensError(
                f"{self.path}:1: made under fingerprint {shown(fingerprint)}, but this run has "
                f"{header['fingerprint']}; give another output path"
            )

    def _refuse_foreign(self, line: int) -> NoReturn:
        raise DistillensError(
            f"{self.path}:{line}: no fingerprint, so not a file of answers; remove it, or give "
            "another output path"
        )

    def _read(self) -> None:
        lines: dict[tuple[str, ...], int] = {}
        for line, row in read_jsonl(self.path):
            if line == 1:
                continue
            where = f"{self.path}:{line}"
            key = row.pop("key", None)
            if not isinstance(key, list) or not all(isinstance(part, str) for part in key):
                raise DistillensError(
                    f"{where}: no key, so not a row of this store; remove the line"
                )
            check(self._row, row, where, expected="expected a stored answer; remove the line")
            known = tuple(key)
            if known in lines:
                raise DistillensError(
                    f"{where}: the key {shown(key)} is already on line {lines[known]}; remove one "
                    "of the lines"
                )
            lines[known] = line
            self.rows[known] = row

    def _write_line(self, row: dict[str, Any]) -> None:
        line = _line(row)
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise RunFailure(f"{self.path}: cannot be written: {error.strerror}") from error
        if written != len(line):
            # The next run drops the torn line; continuing would glue two rows together.
            raise RunFailure(f"{self.path}: only part of a row could be written; is the disk full?")


def _line(row: dict[str, Any]) -> bytes:
    return (encode_row(row) + "\n").encode("utf-8")


def open_store(
    path: Path, settings: dict[str, Any], row: type[BaseModel], *, rank: int = 0
) -> AnswerStore:
    """The store of one of the processes that share a run; see `AnswerStore` for the others.

    Args:
        rank: 0 for the main process, which opens the file itself, and before the others do. They
            get a part beside it, with the rows that were there.
    Raises:
        DistillensError: also if the main process's file is not there for another process.
    """
    if rank == 0:
        store = AnswerStore(path, settings, row)
        try:
            store.take_parts()
        except BaseException:
            store.close()
            raise
        return store
    if not path.exists():
        raise DistillensError(
            f"{path}: not there, although the main process has it; give an output path that all "
            "machines share"
        )
    main = AnswerStore(path, settings, row)
    main.close()
    part = AnswerStore(path.with_name(f"{path.stem}.rank{rank}{path.suffix}"), settings, row)
    part.rows = {**main.rows, **part.rows}
    return part
