"""The answer store survives kills and torn lines."""

from pathlib import Path

import pytest

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.store import AnswerStore

SETTINGS = {"model": "m", "sampling": {"temperature": 1.0}}
TEXTS = ["a\u2028b\x85c", "nul\x00 and \ud800", "emoji 🙂", "crlf\r\n", ""]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def filled(path, texts=TEXTS):
    store = AnswerStore(path, SETTINGS)
    for number, text in enumerate(texts):
        store.add((str(number), "10"), {"text": text})
    store.close()


def reopened(path) -> AnswerStore:
    store = AnswerStore(path, SETTINGS)
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
    store = AnswerStore(path, SETTINGS)
    assert store.num_torn_bytes > 0
    store.add((str(len(TEXTS) - 1), "10"), {"text": TEXTS[-1]})
    store.close()
    assert path.read_bytes() == whole


def test_other_settings_are_refused(path):
    filled(path)
    with pytest.raises(
        DistillensError, match=r"answers.jsonl:1: made under .* give another output"
    ):
        AnswerStore(path, {**SETTINGS, "model": "other"})


def test_a_broken_line_in_the_middle_is_named(path):
    filled(path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = b"{broken"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DistillensError, match=r"answers.jsonl:3:2: not JSON"):
        AnswerStore(path, SETTINGS)


def test_a_line_without_a_key_is_named(path):
    filled(path)
    path.write_bytes(path.read_bytes() + b'{"text": "x"}\n')
    with pytest.raises(DistillensError, match=r"answers.jsonl:7: no key"):
        AnswerStore(path, SETTINGS)


def test_a_key_is_written_once(path):
    store = AnswerStore(path, SETTINGS)
    store.add(("a",), {"text": "x"})
    with pytest.raises(ValueError, match="already"):
        store.add(("a",), {"text": "y"})
    store.close()


def test_a_full_disk_is_a_failure_of_the_run():
    with pytest.raises(RunFailure, match="/dev/full: cannot be"):
        AnswerStore(Path("/dev/full"), SETTINGS).add(("a",), {"text": "x"})
