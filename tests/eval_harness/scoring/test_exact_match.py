"""Exact match forgives case, ASCII punctuation and white space, and nothing else."""

import pytest
from result_samples import make_results, make_samples, make_task

from eval_harness import compare, load_results, task_notes
from eval_harness.results.folder import write_results
from eval_harness.scoring.exact_match import (
    blank_references_note,
    exact_match,
    normalize_answer,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Answer.\n", "the answer"),
        ("don't-stop", "dontstop"),
        ("a\u2028b\u00a0c\x1cd", "a b c d"),
        ("“quoted” – dash", "“quoted” – dash"),
        ("...", ""),
        ("\ud800 X\x00", "\ud800 x\x00"),
    ],
)
def test_normalization(text, expected):
    assert normalize_answer(text) == expected


def test_any_reference_may_match():
    assert exact_match("Yes!", ["no", " yes"]) == 1.0
    assert exact_match("Yes", ["no", "yes it is"]) == 0.0


def test_empty_answer_matches_only_an_empty_reference():
    assert exact_match("", ["?"]) == 1.0
    assert exact_match("", ["a"]) == 0.0


def test_references_of_punctuation_alone_are_told(tmp_path):
    assert exact_match(">", ["<"]) == exact_match("", ["a", "+"]) == 1.0
    note = blank_references_note([["<"], ["a", "+"], ["a"]])
    assert note is not None
    assert note.startswith("exact_match: 2 of 3 rows have a reference of punctuation alone")
    assert blank_references_note([["a"], ["“"]]) is None
    samples = make_samples([[">", "x"], ["b", "c"]], references=[["< 1", "<"], ["b"]])
    for name in ("one", "two"):
        write_results(make_results(name, make_task("t", samples)), tmp_path)
    (note,) = compare(tmp_path / "one", tmp_path / "two").notes
    assert note.startswith("t: exact_match: 1 of 2 rows")
    (told,) = task_notes(load_results(tmp_path / "one").tasks["t"])
    assert note == f"t: {told}"


def test_score_tells_references_of_punctuation_alone(harness, tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": 1, "text": ">"}\n{"id": 2, "text": "b"}\n')
    (tmp_path / "rows.jsonl").write_text(
        '{"id": 1, "output": ["<", "less"]}\n{"id": 2, "output": "b"}\n'
    )
    done = harness("score", "--predictions", "answers.jsonl", "--references", "rows.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("eval-harness: exact_match: 1 of 2 rows have a reference of punc")
    assert done.stderr.count("\n") == 1


def test_a_note_counts_the_rows_that_are_scored_whether_they_were_read_or_made(tmp_path):
    samples = make_samples([["x", "y"], ["z", "z"]], references=[["?"], []])
    task = make_task("t", samples)
    write_results(make_results("one", task), tmp_path)
    some, words, blank = task_notes(task)
    assert some == "1 of 2 rows have a reference; the scores are over these"
    assert words.startswith("rougeL: 1 of 1 rows")
    assert blank.startswith("exact_match: 1 of 1 rows")
    assert task_notes(load_results(tmp_path / "one").tasks["t"]) == [some, words, blank]
