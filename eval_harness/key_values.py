"""Parses lm-eval's `key=value,key=value` arguments."""

import json
from typing import Any

from eval_harness.errors import DistillensError


def parse_key_values(text: str, *, flag: str) -> dict[str, Any]:
    """Keys with values as bool, None, int, float, JSON object or list, or string.

    Commas inside brackets, braces and double quotes do not separate.

    Args:
        text: "pretrained=DIR,dtype=float32"; "" gives {}.
        flag: named in errors.
    Raises:
        DistillensError: a part without "=", or a key given twice.
    """
    parsed: dict[str, Any] = {}
    for part in _split(text):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise DistillensError(f"{flag} {part!r}: expected key=value, separated by commas")
        if key in parsed:
            raise DistillensError(f"{flag} {key}: given twice")
        parsed[key] = _value(value.strip())
    return parsed


def _split(text: str) -> list[str]:
    parts, depth, quoted, start = [], 0, False, 0
    for index, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "[{":
            depth += 1
        elif not quoted and character in "]}":
            depth -= 1
        elif not quoted and depth == 0 and character == ",":
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


def _value(text: str) -> Any:
    constants = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in constants:
        return constants[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
