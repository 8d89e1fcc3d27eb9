"""A benchmark's names of a row's fields: `answer`, `turns[0]`, or `prompt[0] | turns[0]`."""

import re
from collections.abc import Mapping
from typing import Any

_ENTRY = re.compile(r"(.+)\[(\d+)\]")
_OTHERWISE = " | "


def read_field(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field; None where the row lacks it.

    Args:
        name: of a field; `turns[0]` is the first entry of the list `turns`. Of several names with
            " | " between them, the first that the row has.
    """
    for part in name.split(_OTHERWISE):
        if part in row:
            return row[part]
        entry = _ENTRY.fullmatch(part)
        if entry is not None and entry[1] in row:
            return _entry(row[entry[1]], int(entry[2]))
    return None


def field_names(name: str) -> list[str]:
    """The fields that a name may read."""
    parts = name.split(_OTHERWISE)
    return [entry[1] if (entry := _ENTRY.fullmatch(part)) else part for part in parts]


def _entry(values: object, index: int) -> Any:
    """Of a list; another value is given as it is, for the caller to refuse."""
    if not isinstance(values, list):
        return values
    return values[index] if index < len(values) else None
