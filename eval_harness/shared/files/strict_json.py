"""JSON as the standard defines it, within limits that keep every later step safe."""

import json
import math
import re
from typing import Any, NoReturn

_CONSTANTS = r"-?Infinity|NaN"
_NUMBERS = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_STRING_OR_TOKEN = re.compile(rf'"(?:[^"\\]|\\.)*"|{_CONSTANTS}|{_NUMBERS}')
# Python reads integers of at most 4,300 digits; nothing here needs more than a few dozen.
_MOST_DIGITS = 300
# Far beyond any real file, and far below what Python's recursion can walk.
_DEEPEST = 100


class NotJsonError(Exception):
    """What is wrong, and at which character (from 0)."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class _OutOfRangeError(Exception):
    """A token that Python's reader accepts, but that is not a usable JSON number."""

    def __init__(self, token: str, message: str) -> None:
        super().__init__(message)
        self.token = token
        self.message = message


def decode(text: str) -> Any:
    """The value that `text` encodes.

    Refused are NaN and infinities (Python reads 1e999 as one), integers of more than 300 digits,
    and values nested deeper than 100.

    Raises:
        NotJsonError: it is not JSON, or beyond these limits.
    """
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_float, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg}", error.pos) from error
    except _OutOfRangeError as error:
        raise NotJsonError(error.message, _position_of(error.token, text)) from error
    except RecursionError as error:
        raise NotJsonError(f"nested deeper than {_DEEPEST}", 0) from error
    # Most values have too few brackets for a walk to be worth it.
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep([value]):
        raise NotJsonError(f"nested deeper than {_DEEPEST}", 0)
    return value


def json_type(value: object) -> str:
    """The name of a decoded value's JSON type."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _refuse_constant(name: str) -> NoReturn:
    raise _OutOfRangeError(
        name, f"not JSON: {name} is not a JSON number; write null or leave the key out"
    )


def _float(token: str) -> float:
    value = float(token)
    if math.isinf(value):
        raise _OutOfRangeError(
            token, f"{_shown(token)} is too large for a number; write null or leave the key out"
        )
    return value


def _integer(token: str) -> int:
    if len(token) > _MOST_DIGITS:
        raise _OutOfRangeError(
            token, f"{_shown(token)} has {len(token)} digits, expected a smaller integer"
        )
    return int(token)


def _shown(token: str) -> str:
    return token if len(token) <= 30 else f"{token[:20]}..."


def _position_of(token: str, text: str) -> int:
    hits = (hit.start() for hit in _STRING_OR_TOKEN.finditer(text) if hit[0] == token)
    return next(hits, 0)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
