"""Rows in JSON Lines or in one array: where each stands, and what is refused."""

import gzip

import pytest

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_rows import read_rows


def found(path) -> list[tuple[str, dict]]:
    return [(place.short, row) for place, row in read_rows(path)]


def test_lines_and_an_array_give_the_same_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "rows.json").write_bytes(b'\xef\xbb\xbf\n [{"a": 1},\n  {"a": 2}]\n')
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(b'[{"a": 1}, {"a": 2}]'))
    assert found(tmp_path / "rows.jsonl") == [("line 1", {"a": 1}), ("line 3", {"a": 2})]
    for name in ("rows.json", "rows.json.gz"):
        assert found(tmp_path / name) == [("entry 0", {"a": 1}), ("entry 1", {"a": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "rows.json: an empty array"),
        (b'[{"a": 1}, 2]', r"rows.json\[1\]: found a JSON number, expected an object"),
        (b'[{"a": 1},\n {"a"]', r"rows.json:2:6: not JSON"),
        (b'[{"a": "\xff"}]', "rows.json: byte 0xff is not UTF-8"),
        (b"[[[[" * 50 + b"]]]]" * 50, "nested deeper than 100"),
        (b'[{"a": NaN}]', "NaN is not a JSON number"),
        (b"", "rows.json: holds no rows"),
    ],
)
def test_what_is_no_array_of_objects_is_refused(tmp_path, content, message):
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DistillensError, match=message):
        found(tmp_path / "rows.json")
