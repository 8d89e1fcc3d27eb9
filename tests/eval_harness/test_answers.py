"""The protocol's cut, and final answers of worked problems."""

from decimal import Decimal

import pytest

from eval_harness.answers import cut_answer, final_answer, final_answer_score
from eval_harness.benchmarks import find_benchmarks, load_rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a \n", "a"),
        ("a<|endoftext|>b", "a"),
        ("a<n>b<n>", "a\nb"),
        ("<|endoftext|>a", ""),
        ("a\u2028b\x85c\x00", "a\u2028b\x85c\x00"),
        ("\ud800 x", "\ud800 x"),
    ],
)
def test_cut(text, expected):
    assert cut_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6 * 7 = 42\n#### 42", "42"),
        ("#### $1,234.50 dollars, not 3", "1234.5"),
        ("#### -5", "-5"),
        ("so he has 12 apples and 3 pears.", "3"),
        ("#### nothing", None),
        ("it costs $18.", "18"),
        ("ends with 7,", "7"),
        ("3 #### none here", "3"),
        ("", None),
    ],
)
def test_final_answer(text, expected):
    assert final_answer(text) == (None if expected is None else Decimal(expected))


def test_equal_numbers_match_however_they_are_written():
    assert final_answer_score("#### 1,000.0", ["work\n#### 1000"]) == 1.0
    assert final_answer_score("#### 1001", ["#### 1000"]) == 0.0
    assert final_answer_score("no number", ["no number"]) == 0.0


def test_every_gsm8k_reference_has_a_final_answer_and_matches_itself():
    for row in load_rows(find_benchmarks()["gsm8k"]):
        assert final_answer_score(row.references[0], row.references) == 1.0
