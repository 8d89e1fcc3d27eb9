"""Rows of .jsonl, .json and .csv files, with every text as written.

Libraries that guess types read "NA" as missing, "007" as 7 and "2024-01-01" as a date.
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import json_type
from eval_harness.shared.files.jsonl import read_jsonl

# CSV has no null: in these columns an empty cell is a missing value.
_MISSING_WHERE_EMPTY = ("id", "instruction", "prompt")


def read_jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path:line, object) of each line."""
    for line, row in read_jsonl(path):
        yield f"{path}:{line}", row


def read_json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each row of an array of objects, or of JSON Lines under another name.

    Raises:
        DistillensError: it is neither of the two.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DistillensError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DistillensError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
    if not text.lstrip().startswith("["):
        yield from read_jsonl_rows(path)
        return
    try:
        rows = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise DistillensError(f"{place}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DistillensError(f"{path}: not readable as JSON: {error}") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DistillensError(
                f"{path} row {number}: found a JSON {json_type(row)}, expected an object"
            )
        yield f"{path} row {number}", row
    if not rows:
        raise DistillensError(f"{path}: holds no rows, expected an array of objects")


def read_csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path:line, row) of each row; every cell is a text, and an empty id, instruction or prompt is
    left out.

    Args:
        path: UTF-8, separated by commas, the first row with the columns' names.
    Raises:
        DistillensError: not such a file, or a row with more or fewer cells than the first.
    """
    csv.field_size_limit(sys.maxsize)  # Python's own limit, 131,072, is shorter than some texts
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            try:
                yield from _csv_rows(path, lines)
            except csv.Error as error:
                raise DistillensError(f"{path}:{lines.line_num}: not CSV: {error}") from error
            except UnicodeDecodeError as error:
                raise DistillensError(
                    f"{path}: after line {lines.line_num}: byte 0x{error.object[error.start]:02x} "
                    "is not UTF-8; save the file as UTF-8"
                ) from error
    except OSError as error:
        raise DistillensError(f"{path}: cannot be read: {error.strerror}") from error


class _CsvLines(Protocol):
    """csv.reader's object, whose type has no name."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


READERS = {".jsonl": read_jsonl_rows, ".json": read_json_rows, ".csv": read_csv_rows}


def _csv_rows(path: Path, lines: _CsvLines) -> Iterator[tuple[str, dict[str, Any]]]:
    columns: list[str] = next((cells for cells in lines if cells), [])
    repeated = [name for name in columns if columns.count(name) > 1]
    if repeated:
        raise DistillensError(f"{path}:1: the column {repeated[0]!r} appears twice; rename one")
    num_rows = 0
    start = lines.line_num + 1
    for cells in lines:
        place, start = f"{path}:{start}", lines.line_num + 1
        if not cells:
            continue
        if len(cells) != len(columns):
            raise DistillensError(
                f"{place}: found {len(cells)} cells, expected {len(columns)} as in the first row; "
                "put texts with commas or line breaks in double quotes"
            )
        num_rows += 1
        named = zip(columns, cells, strict=True)
        yield place, {key: cell for key, cell in named if cell or key not in _MISSING_WHERE_EMPTY}
    if num_rows == 0:
        raise DistillensError(
            f"{path}: holds no rows, expected a row of column names and one row for each task"
        )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; write null or leave the key out")
