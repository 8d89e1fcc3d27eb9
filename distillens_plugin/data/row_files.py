"""Rows of .jsonl, .json and .csv files, compressed (.gz) or not, with every text as written.

All but JSON arrays are read a row at a time. Libraries that guess types read "NA" as missing, "007"
as 7 and "2024-01-01" as a date.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

from distillens_plugin.data.spec import DatasetSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.files.gzipped import SUFFIX, open_bytes
from eval_harness.shared.files.json_files import json_type
from eval_harness.shared.files.jsonl import read_jsonl

# The place of a row, for errors, and its columns.
PlacedRow = tuple[str, dict[str, Any]]
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


def read_jsonl_rows(path: Path) -> Iterator[PlacedRow]:
    """(path:line, object) of each line."""
    for line, row in read_jsonl(path):
        yield f"{path}:{line}", row


def read_json_rows(path: Path) -> Iterator[PlacedRow]:
    """(place, object) of each row of an array of objects, or of JSON Lines under another name.

    Raises:
        DistillensError: it is neither of the two.
    """
    if not is_json_array(path):
        yield from read_jsonl_rows(path)
        return
    with open_bytes(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DistillensError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
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


def read_csv_rows(path: Path) -> Iterator[PlacedRow]:
    """(path:line, row) of each row; every cell is a text.

    Args:
        path: UTF-8, separated by commas, the first row with the columns' names.
    Raises:
        DistillensError: not such a file, or a row with more or fewer cells than the first.
    """
    csv.field_size_limit(sys.maxsize)  # Python's own limit, 131,072, is shorter than some texts
    with (
        open_bytes(path) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as texts,
    ):
        lines = csv.reader(texts, strict=True)
        try:
            yield from _csv_rows(path, lines)
        except csv.Error as error:
            raise DistillensError(f"{path}:{lines.line_num}: not CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise DistillensError(
                f"{path}: after line {lines.line_num}: byte 0x{error.object[error.start]:02x} "
                "is not UTF-8; save the file as UTF-8"
            ) from error


def is_json_array(path: Path) -> bool:
    """Whether a .json file is one array, which can only be read whole."""
    with open_bytes(path) as file:
        start = file.read(len(_BOM)).removeprefix(_BOM)
        while not start.strip(_BLANK) and (more := file.read(4096)):
            start = more
    return start.lstrip(_BLANK).startswith(b"[")


class _CsvLines(Protocol):
    """csv.reader's object, whose type has no name."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


def check_streamable(path: Path, spec: DatasetSpec, where: str) -> None:
    """Refuses a JSON array where rows are to be read while training.

    Raises:
        DistillensError: it is one.
    """
    if spec.streaming and format_of(path) == ".json" and is_json_array(path):
        raise DistillensError(
            f"{where}.streaming: {path} is one JSON array, which can only be read whole; save it "
            "as JSON Lines, one object a line"
        )


READERS = {".jsonl": read_jsonl_rows, ".json": read_json_rows, ".csv": read_csv_rows}
# Of the files that are read, also through the `datasets` library.
SUFFIXES = (*READERS, *(f"{suffix}.gz" for suffix in READERS), ".parquet")


def format_of(path: Path) -> str:
    """The end of a file's name that tells its format, without .gz: `.jsonl` of rows.jsonl.gz."""
    name = path.name.removesuffix(SUFFIX) if path.suffix == SUFFIX else path.name
    return Path(name).suffix


def _csv_rows(path: Path, lines: _CsvLines) -> Iterator[PlacedRow]:
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
        yield place, dict(named)
    if num_rows == 0:
        raise DistillensError(
            f"{path}: holds no rows, expected a row of column names and one row for each task"
        )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; write null or leave the key out")
