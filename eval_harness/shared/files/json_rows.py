"""Rows in JSON Lines, or in one JSON array."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.files.gzipped import open_bytes
from eval_harness.shared.files.jsonl import read_jsonl
from eval_harness.shared.files.strict_json import NotJsonError, decode, json_type

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Place:
    """Where a row stands.

    Attributes:
        where: with the file, for the begin of an error.
        short: within the file, such as "line 3".
    """

    where: str
    short: str


def read_rows(path: str | os.PathLike[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects of a JSON Lines file, or of a file that is one JSON array of them.

    Args:
        path: a UTF-8 file, compressed if its name ends in .gz.
    Raises:
        DistillensError: as `read_jsonl`; of an array, the entry that is no object.
    """
    name = os.fspath(path)
    if _is_array(path):
        yield from _read_array(name)
        return
    for line, row in read_jsonl(path):
        yield Place(f"{name}:{line}", f"line {line}"), row


def _is_array(path: str | os.PathLike[str]) -> bool:
    with open_bytes(path) as file:
        for line in file:
            begin = line.removeprefix(_BOM).lstrip()
            if begin:
                return begin.startswith(b"[")
    return False


def _read_array(name: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    with open_bytes(name) as file:
        content = file.read().removeprefix(_BOM)
    try:
        text = content.decode("utf-8")
        rows = decode(text)
    except UnicodeDecodeError as error:
        raise DistillensError(
            f"{name}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    except NotJsonError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise DistillensError(f"{name}:{line}:{column}: {error.message}") from error
    if not rows:
        raise DistillensError(f"{name}: an empty array, expected an object for each row")
    for number, row in enumerate(rows):
        place = Place(f"{name}[{number}]", f"entry {number}")
        if not isinstance(row, dict):
            raise DistillensError(
                f"{place.where}: found a JSON {json_type(row)}, expected an object {{...}}"
            )
        yield place, row
