"""The JSON Lines reader keeps every character and says where a line is wrong."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.jsonl import (
    encode_row,
    read_jsonl,
    replace_lone_surrogates,
    write_jsonl,
)

TRICKY = [
    "a\u2028b\u2029c\x85d",
    "nul\x00\x1c\x0b\x0c",
    "emoji 🙂 é",
    "\r\n\t",
    "\ud800 alone",
    "\ufeff",
]


def rows_of(path: Path, content: bytes) -> list[tuple[int, dict]]:
    path.write_bytes(content)
    return list(read_jsonl(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_raw_unicode_line_ends_stay_inside_the_text(path):
    text = "a\u2028b\u2029c\x85d"
    content = json.dumps({"t": text}, ensure_ascii=False).encode() + b"\n" + b'{"t": "next"}'
    assert rows_of(path, content) == [(1, {"t": text}), (2, {"t": "next"})]


def test_escapes_keep_nul_and_lone_surrogates(path):
    content = b'{"t": "\\u0000 \\ud800 \\ud83d\\ude42"}\n'
    assert rows_of(path, content) == [(1, {"t": "\x00 \ud800 🙂"})]


def test_crlf_bom_blank_lines_and_missing_last_newline_are_tolerated(path):
    content = b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "x\\r\\n"}'
    assert rows_of(path, content) == [(1, {"a": 1}), (4, {"a": "x\r\n"})]


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        (b'{"a": 1}\n{"a": }\n', ":2:7", "not JSON"),
        ('{"é🙂": 1, x}'.encode(), ":1:11", "not JSON"),
        (b'\xef\xbb\xbf{"a"}', ":1:5", "not JSON"),
        ("{'é".encode() + b"\xff}", ":1:4", "0xff is not UTF-8"),
        (b"\n [1]\n", ":2:2", "JSON array, expected an object"),
        (b"3", ":1:1", "JSON number, expected an object"),
        (b'{"NaN": "NaN", "a": NaN}', ":1:21", "NaN is not a JSON number"),
        (b'{"a": -Infinity}', ":1:7", "-Infinity is not"),
        (b'{"1e999": "1e999", "a": [{"b": -1.5e999}]}', ":1:32", "-1.5e999 is too large"),
        (b'{"a": 1E400}', ":1:7", "write null or leave the key out"),
        (b'{"a": ' + b"9" * 5000 + b"}", ":1:7", "has 5000 digits"),
        (b'{"a": ' + b"[" * 100_000, ":1:1", "nested deeper than 100"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", ":1:1", "nested deeper than 100"),
        (b'{"a": "x\x00"}', ":1:9", "control character"),
        (b'{"a": 1} {"a": 2}', ":1:10", "Extra data"),
    ],
)
def test_a_bad_line_is_told_with_file_line_and_character(path, content, place, words):
    with pytest.raises(DistillensError) as caught:
        rows_of(path, content)
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_rows_before_a_bad_line_come_through(path):
    path.write_bytes(b'{"a": 1}\nnonsense\n')
    rows = read_jsonl(path)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(DistillensError, match=":2:1: not JSON"):
        next(rows)


@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_refused(path, content):
    with pytest.raises(DistillensError, match="holds no rows"):
        rows_of(path, content)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DistillensError, match=r"none\.jsonl: cannot be read: No such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(DistillensError, match="cannot be read: Is a directory"):
        list(read_jsonl(tmp_path))


def test_written_rows_come_back_and_each_takes_one_line_for_any_reader(path):
    rows = [{"t": text, "n": number} for number, text in enumerate(TRICKY)]
    write_jsonl(path, rows)
    assert [row for _, row in read_jsonl(path)] == rows
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(rows)
    assert "🙂 é" in path.read_text(encoding="utf-8")


json_texts = st.text(st.characters(exclude_categories=[]))


@given(st.dictionaries(json_texts, json_texts))
def test_any_text_survives_encoding(row):
    line = encode_row(row)
    # Two halves that meet in a text are one character in JSON: that pair alone may change.
    expected = {merge_pairs(key): merge_pairs(value) for key, value in row.items()}
    assert json.loads(line.encode("utf-8")) == expected
    assert len(line.splitlines()) == 1


def merge_pairs(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def test_an_existing_file_survives_a_failed_write(path):
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(path, [{"a": 2}, {"a": float("nan")}])
    assert list(read_jsonl(path)) == [(1, {"a": 1})]
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_a_failure_while_running(tmp_path):
    with pytest.raises(RunFailure, match=r"no/rows\.jsonl: cannot be written: No such file"):
        write_jsonl(tmp_path / "no" / "rows.jsonl", [{"a": 1}])


def test_a_written_file_has_the_usual_permissions_and_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    write_jsonl(link, [{"a": 1}])
    (tmp_path / "plain").write_text("")
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("target.jsonl", "plain")]
    assert modes[0] == modes[1]
    assert link.is_symlink()


def test_lone_surrogates_are_replaced_and_pairs_kept():
    assert replace_lone_surrogates("a\ud800b🙂\udfff") == "a\ufffdb🙂\ufffd"


def test_shared_data_is_read_whole(shared):
    rows = list(read_jsonl(shared / "data" / "train.jsonl"))
    assert len(rows) == 12000
    assert [number for number, _ in rows] == list(range(1, 12001))
