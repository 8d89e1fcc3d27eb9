"""The answer store survives kills and torn lines."""

import json
from pathlib import Path

import pytest

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.generation.store import AnswerStore
from eval_harness.results.file_models import AnswerRow

SETTINGS = {"model": "m", "sampling": {"temperature": 1.0}}
TEXTS = ["a\u2028b\x85c", "nul\x00 and \ud800", "emoji 🙂", "crlf\r\n", ""]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def answer(text):
    return {"text": text, "num_tokens": 1, "finish_reason": "stop"}


def filled(path, texts=TEXTS):
    store = AnswerStore(path, SETTINGS, AnswerRow)
    for number, text in enumerate(texts):
        store.add((str(number), "10"), answer(text))
    store.close()


def reopened(path) -> AnswerStore:
    store = AnswerStore(path, SETTINGS, AnswerRow)
    store.close()
    return store


def test_rows_come_back_as_they_were(path):
    filled(path)
    rows = reopened(path).rows
    assert [rows[str(number), "10"]["text"] for number in range(len(TEXTS))] == TEXTS


def test_every_cut_of_the_file_keeps_the_whole_lines_before_it(path):
    filled(path)
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole_lines = content[:size].count(b"\n")
        assert len(reopened(path).rows) == max(0, whole_lines - 1)
        assert path.read_bytes().endswith(b"\n")


def test_appending_after_a_torn_line_gives_the_uninterrupted_file(path):
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    store = AnswerStore(path, SETTINGS, AnswerRow)
    assert store.num_torn_bytes > 0
    store.add((str(len(TEXTS) - 1), "10"), answer(TEXTS[-1]))
    store.close()
    assert path.read_bytes() == whole


def test_other_settings_are_refused(path):
    filled(path)
    with pytest.raises(
        DistillensError, match=r"answers.jsonl:1: made under .* give another output"
    ):
        AnswerStore(path, {**SETTINGS, "model": "other"}, AnswerRow)


def test_a_broken_line_in_the_middle_is_named(path):
    filled(path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = b"{broken"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DistillensError, match=r"answers.jsonl:3:2: not JSON"):
        AnswerStore(path, SETTINGS, AnswerRow)


def test_a_line_without_a_key_is_named(path):
    filled(path)
    path.write_bytes(path.read_bytes() + b'{"text": "x"}\n')
    with pytest.raises(DistillensError, match=r"answers.jsonl:7: no key"):
        AnswerStore(path, SETTINGS, AnswerRow)


def test_a_key_is_written_once(path):
    store = AnswerStore(path, SETTINGS, AnswerRow)
    store.add(("a",), answer("x"))
    with pytest.raises(ValueError, match="already"):
        store.add(("a",), answer("y"))
    store.close()


def test_a_full_disk_is_a_failure_of_the_run():
    with pytest.raises(RunFailure, match="/dev/full: cannot be"):
        AnswerStore(Path("/dev/full"), SETTINGS, AnswerRow).add(("a",), answer("x"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": 3}, r":3: text = 3: it should be a valid string"),
        ({"num_tokens": "1"}, r":3: num_tokens = '1': it should be a valid integer"),
        ({"num_tokens": -1}, r":3: num_tokens = -1"),
        ({"finish_reason": "eos"}, r":3: finish_reason = 'eos': it should be 'stop' or 'length'"),
        ({"key": "0"}, r":3: no key"),
        ({"key": ["0", "10"]}, r":3: the key \['0', '10'\] is already on line 2"),
    ],
)
def test_a_row_of_other_form_is_named(path, line, message):
    filled(path)
    lines = path.read_text().split("\n")
    lines[2] = json.dumps({**json.loads(lines[2]), **line})
    path.write_text("\n".join(lines))
    with pytest.raises(DistillensError, match=message):
        AnswerStore(path, SETTINGS, AnswerRow)


@pytest.mark.parametrize(
    "content", [b"years of work", b"a,b\n1,2", b'{"a": 1}\nx', b"\x00\xff", b"\n\n{}", b"[]\n"]
)
def test_a_file_that_is_not_ours_is_refused_and_left_as_it_was(path, content):
    path.write_bytes(content)
    with pytest.raises(DistillensError, match=r"answers\.jsonl:[123]:"):
        AnswerStore(path, SETTINGS, AnswerRow)
    assert path.read_bytes() == content
