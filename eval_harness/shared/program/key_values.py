"""lm-eval's `key=value,key=value` arguments, read and written."""

import json
import os
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.shortened import shortened

# Names of files, folders and revisions, which may be 1234567, 0010, 1e3 or true.
NAMES = frozenset(
    {
        "code_revision",
        "download_dir",
        "hf_config_path",
        "model",
        "offload_folder",
        "peft",
        "pretrained",
        "revision",
        "served_model_name",
        "subfolder",
        "tokenizer",
        "tokenizer_revision",
    }
)
# A text, or a JSON list of texts.
_TEXTS = frozenset({"until"})
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None}
# Numbers as in JSON, also with a plus sign or without a leading zero; 007 and 1_000 are text.
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MOST_DIGITS = 40
_OPENING = ("[", "{", '"')


def parse_key_values(text: str, *, flag: str, names: Set[str] = NAMES) -> dict[str, Any]:
    """Keys with values as bool, None, int, float, JSON object or list, or string.

    A comma ends a value, unless the value begins with a double quote, a bracket or a brace and is
    therefore JSON. A quoted value is always a text, so `pretrained="a,b=1"` names the folder
    `a,b=1` and sets no key b.

    Args:
        text: "pretrained=DIR,dtype=float32"; "" gives {}.
        flag: named in errors.
        names: keys whose values are always texts.
    Raises:
        DistillensError: a part without "=", a key given twice, a value that begins like JSON but is
            not, or a number that is too large.
    """
    parsed: dict[str, Any] = {}
    position = 0
    while position < len(text):
        if text[position] in ", \t\n":
            position += 1
            continue
        key, position = _key(text, position, flag)
        if key in parsed:
            raise DistillensError(f"{flag} {shortened(key)}: given twice; keep one of them")
        where = f"{flag} {shortened(key)}"
        value, position = _value(text, position, key=key, where=where, names=names)
        parsed[key] = value
    return parsed


def read_key_values(
    given: str | Sequence[str], *, flag: str, names: Set[str] = NAMES
) -> dict[str, Any]:
    """The same for a flag with several texts: `k=v,k=v`, `k=v k=v`, or one JSON object.

    Args:
        given: what follows the flag.
        flag, names: see `parse_key_values`.
    Raises:
        DistillensError: as in `parse_key_values`, or a JSON object with a number for a name.
    """
    parts = [given] if isinstance(given, str) else list(given)
    if len(parts) == 1 and parts[0].lstrip().startswith("{"):
        values, _ = _json(parts[0].strip(), 0, flag)
        check_names_are_texts(values, flag=flag, names=names)
        return dict(values)
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in parse_key_values(part, flag=flag, names=names).items():
            if key in found:
                raise DistillensError(f"{flag} {shortened(key)}: given twice; keep one of them")
            found[key] = value
    return found


def check_names_are_texts(values: Mapping[str, Any], *, flag: str, names: Set[str] = NAMES) -> None:
    """Refuses a number where a file, folder or revision is named: 0010 would become another one.

    Args:
        values: from JSON, YAML or Python, which have types of their own.
        flag: named in errors.
        names: the keys.
    Raises:
        DistillensError: the key, what was found, and how to write it.
    """
    for key in names & values.keys():
        value = values[key]
        if value is not None and not isinstance(value, str | os.PathLike):
            raise DistillensError(
                f"{flag} {key} = {shortened(repr(value))} is {type(value).__name__}, but it is a "
                "name; write it in quotes"
            )


def format_key_values(values: Mapping[str, Any]) -> str:
    """The text that `parse_key_values` reads as these values.

    Args:
        values: by key; keys without comma or equals sign. A name that is None is left out.
    """
    given = {key: value for key, value in values.items() if key not in NAMES or value is not None}
    return ",".join(f"{key}={_written(key, value)}" for key, value in given.items())


def _key(text: str, position: int, flag: str) -> tuple[str, int]:
    equals = text.find("=", position)
    comma = text.find(",", position)
    key = text[position:equals].strip() if equals >= 0 else ""
    if not key or 0 <= comma < equals:
        part = text[position : comma if comma >= 0 else len(text)].strip()
        raise DistillensError(
            f"{flag} {shortened(part)!r}: expected key=value pairs separated by commas"
        )
    return key, equals + 1


def _value(text: str, position: int, *, key: str, where: str, names: Set[str]) -> tuple[Any, int]:
    """The value that begins at `position`, and where the next part begins."""
    while text[position : position + 1].isspace():
        position += 1
    if text.startswith('"' if key in names else _OPENING, position):
        return _json(text, position, where)
    comma = text.find(",", position)
    end = comma if comma >= 0 else len(text)
    plain = text[position:end].strip()
    return plain if key in names | _TEXTS else _typed(plain, where), end


def _json(text: str, position: int, where: str) -> tuple[Any, int]:
    begin = text[position]
    try:
        value, end = json.JSONDecoder(parse_int=_number, parse_constant=_number).raw_decode(
            text, position
        )
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise DistillensError(
            f"{where}: begins with {begin} but is not JSON ({reason}); use double quotes and close "
            "every quote, bracket and brace"
        ) from error
    rest = text[end:].lstrip()
    if rest and not rest.startswith(","):
        raise DistillensError(
            f"{where}: {shortened(rest)!r} follows the closing {text[end - 1]}; expected a comma "
            "or the end"
        )
    return value, end


def _number(digits: str) -> int:
    if not _INTEGER.fullmatch(digits) or len(digits) > _MOST_DIGITS:
        raise ValueError("not a usable number")
    return int(digits)


def _typed(text: str, where: str) -> Any:
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if not _FLOAT.fullmatch(text):
        return text
    if len(text) > _MOST_DIGITS or abs(float(text)) == float("inf"):
        raise DistillensError(
            f"{where}: {shortened(text)} is too large or too long for a number; give a smaller one"
        )
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def _written(key: str, value: object) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        plain = "\n" not in value and parse_key_values(f"{key}={value}", flag="") == {key: value}
    except DistillensError:
        plain = False
    return value if plain else json.dumps(value, ensure_ascii=False)
