"""Exact match forgives case, ASCII punctuation and white space, and nothing else."""

import pytest

from eval_harness.scoring.exact_match import exact_match, normalize_answer


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
