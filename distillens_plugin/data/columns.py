"""Columns of a source under the names that rows have here: `columns: {output: answer}`."""

from collections.abc import Iterator, Mapping
from typing import Any

from distillens_plugin.data.row_files import PlacedRow
from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import names
from eval_harness.shared.near import did_you_mean

# Each of these is a task; a row needs only one.
_TASKS = ("instruction", "prompt", "messages", "conversations")
_OPTIONAL = ("id", "input", "system", "tools")
FIELDS = (*_TASKS, "output", *_OPTIONAL)

# Rows among which an optional column must be found once: a later first use is a typing error.
_FIRST_ROWS = 1000


def renamed(
    rows: Iterator[PlacedRow], columns: Mapping[str, str], where: str
) -> Iterator[PlacedRow]:
    """The rows with the source's columns under our names.

    Args:
        columns: the source's column by our name, of `FIELDS`; others keep their names.
        where: the YAML path of `columns`, for errors.
    Raises:
        DistillensError: a row lacks a column that it must have, or has a column of the new name
            already; or no row has an optional one. Names those that are near.
    """
    unseen = {field: column for field, column in columns.items() if field in _OPTIONAL}
    number, last = 0, None
    for number, (place, row) in enumerate(rows, start=1):
        _check_columns(row, columns, place, where)
        unseen = {field: column for field, column in unseen.items() if column not in row}
        if unseen and number == _FIRST_ROWS:
            break
        taken = set(columns.values())
        kept = {key: value for key, value in row.items() if key not in taken}
        found = {field: row[column] for field, column in columns.items() if column in row}
        last = row
        yield place, {**kept, **found}
    if unseen and last is not None:
        field, column = next(iter(unseen.items()))
        raise DistillensError(
            f"{where}.{field}: none of the first {number:,} rows has a column {column!r}; "
            + _advice(column, last)
        )


def _check_columns(
    row: Mapping[str, Any], columns: Mapping[str, str], place: str, where: str
) -> None:
    has_task = any(columns.get(field, field) in row for field in _TASKS)
    for field, column in columns.items():
        if field in row and field not in columns.values():
            raise DistillensError(
                f"{where}.{field}: {place} has a column {field!r} already, beside {column!r}; "
                "delete one of the two from the rows, or this key"
            )
        if column in row or field in _OPTIONAL or (field in _TASKS and has_task):
            continue
        raise DistillensError(
            f"{where}.{field}: {place} has no column {column!r}; " + _advice(column, row)
        )


def _advice(column: str, row: Mapping[str, Any]) -> str:
    hint = did_you_mean(column, row)
    return f"its columns are {names(row)}" + (f"; {hint}" if hint else "")
