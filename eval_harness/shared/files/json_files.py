"""JSON files that come with a model: one object of a sane size each, or one line on what is wrong.

Nothing here trusts the file: a git-lfs pointer, a huge or deeply nested file and numbers of
hundreds of digits are refused before a library reads them.
"""

import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError

_LFS_POINTER = b"version https://git-lfs"
# The largest signed 64-bit number: every library that reads these files can hold it.
_LARGEST = 2**63 - 1


def regular_size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        DistillensError: it is missing, empty, not a regular file, or a git-lfs pointer.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DistillensError(f"{path}: not a regular file; expected a file with content")
        with open(path, "rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise DistillensError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise DistillensError(f"{path}: the file is empty; copy or download it again")
    if start == _LFS_POINTER:
        raise DistillensError(
            f"{path}: found a git-lfs pointer instead of the file itself; run `git lfs pull` in "
            "its folder"
        )
    return status.st_size


def read_json_object(path: Path, *, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file of a model folder.

    Args:
        path: a UTF-8 file.
        max_bytes: a larger file is not read.
    Raises:
        DistillensError: not one JSON object of at most `max_bytes`; the line names the file.
    """
    size = regular_size(path)
    if size > max_bytes:
        raise DistillensError(f"{path}: found {size} bytes, expected at most {max_bytes}")
    try:
        fields = json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DistillensError(f"{path}: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise DistillensError(
            f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}"
        ) from error
    except RecursionError as error:
        raise DistillensError(f"{path}: its lists and objects are nested too deeply") from error
    except (ValueError, OSError) as error:
        raise DistillensError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DistillensError(f"{path}: found a JSON {json_type(fields)}, expected an object")
    return fields


def json_type(value: object) -> str:
    """What JSON calls a value."""
    names: dict[type, str] = {
        dict: "object",
        list: "list",
        str: "text",
        bool: "boolean",
        type(None): "null",
    }
    return names.get(type(value), "number")


def shown(value: object) -> str:
    """A file's value as an error shows it: always short."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def names(keys: Iterable[str]) -> str:
    """The first keys of an object as an error shows them; "none" if there are none."""
    found = [key if len(key) <= 40 else f"{key[:40]}..." for key in keys]
    rest = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return ", ".join(found[:8]) + rest if found else "none"


def numbers(fields: dict[str, Any]) -> Iterator[tuple[str, str, int | float]]:
    """(dotted path, key, value) of all numbers at any depth; those in a list have its key."""
    waiting: list[tuple[str, str, Any]] = [("", "", fields)]
    while waiting:
        path, key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{k}" if path else k, k, item) for k, item in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{i}]", key, item) for i, item in enumerate(value)]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, key, value


def refuse_huge_numbers(
    path: Path, fields: dict[str, Any], *, unlimited: frozenset[str] = frozenset()
) -> None:
    """Refuses integers that do not fit in 64 bits: other libraries fail on them.

    Args:
        unlimited: keys that may hold larger ones.
    Raises:
        DistillensError: names file, key and value.
    """
    for place, key, value in numbers(fields):
        if isinstance(value, int) and abs(value) > _LARGEST and key not in unlimited:
            raise DistillensError(
                f"{path}: {place} = {shown(value)}, expected a number that fits in 64 bits"
            )
