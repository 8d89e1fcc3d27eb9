"""JSON Lines, read and written without changing a character of the text."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import whole_file
from eval_harness.shared.files.gzipped import open_bytes
from eval_harness.shared.files.strict_json import NotJsonError, decode, json_type

_BOM = b"\xef\xbb\xbf"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Legal inside a JSON string, but readers that use str.splitlines() end a line there.
_ESCAPED_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file, with their line numbers.

    Lines end at a line feed only (a carriage return before it is JSON white space), so U+2028,
    U+0085 and the like inside a text stay there. A byte order mark, blank lines and a missing last
    line feed are tolerated. NaN and infinities are refused (1e999 is one), and the limits of
    `strict_json` hold.

    Args:
        path: a UTF-8 file, compressed if its name ends in .gz.
    Yields:
        (1-based line number, object).
    Raises:
        DistillensError: the file is missing or holds no row, or a line is not UTF-8, JSON or an
            object; the message starts with path:line:column, where columns are characters from 1.
    """
    num_rows = 0
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            raw = line.removeprefix(_BOM) if number == 1 else line
            if not raw.strip():
                continue
            try:
                row = _parse(raw)
            except NotJsonError as error:
                _refuse(path, number, error)
            num_rows += 1
            yield number, row
    if num_rows == 0:
        raise DistillensError(f"{os.fspath(path)}: holds no rows, expected a JSON object per line")


def _refuse(path: str | os.PathLike[str], number: int, error: NotJsonError) -> NoReturn:
    place = f"{os.fspath(path)}:{number}:{error.position + 1}"
    raise DistillensError(f"{place}: {error.message}") from error


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        position = len(raw[: error.start].decode("utf-8"))
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise NotJsonError(message, position) from error
    row = decode(text)
    if not isinstance(row, dict):
        position = len(text) - len(text.lstrip(" \t\r\n"))
        raise NotJsonError(f"found a JSON {json_type(row)}, expected an object {{...}}", position)
    return row


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    """Writes one object per line, UTF-8 with line feeds; `read_jsonl` returns the same objects.

    The file appears whole or not at all: a temporary file beside it is moved into place.

    Args:
        path: the file; its folder must exist. An existing file is replaced.
        rows: JSON objects without NaN or infinities.
    Raises:
        RunFailure: the file cannot be written; an existing one is then untouched.
        ValueError: a row holds NaN or an infinity.
    """
    with (
        whole_file(path) as partial,
        open(partial, "w", encoding="utf-8", newline="\n") as file,
    ):
        for row in rows:
            file.write(encode_row(row) + "\n")


def encode_row(row: dict[str, Any]) -> str:
    """One JSON object as a line without its line feed, for `write_jsonl` and for appending.

    Raises:
        ValueError: the row holds NaN or an infinity.
    """
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    if _LONE_SURROGATE.search(text):
        # UTF-8 cannot express half a surrogate pair; the \ud800 escape keeps it.
        return json.dumps(row, ensure_ascii=True, allow_nan=False)
    return text.translate(_ESCAPED_LINE_ENDS)


def replace_lone_surrogates(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD: tokenizers accept only UTF-8."""
    return _LONE_SURROGATE.sub("\ufffd", text)
