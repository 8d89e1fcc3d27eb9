"""Final numbers of worked problems, however they are written."""

from decimal import Decimal

import pytest

from eval_harness.benchmarks import find_benchmarks, load_rows
from eval_harness.shared.text.final_answers import final_answer, final_answer_score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6 * 7 = 42\n#### 42", "42"),
        ("#### $1,234.50 dollars, not 3", "1234.5"),
        ("#### -5", "-5"),
        ("####-5", "-5"),
        ("#### \u22125", "-5"),
        ("#### \u20135", "-5"),
        ("it takes 3\u20134", "4"),
        ("#### -$1,000.00", "-1000"),
        ("#### $-5", "-5"),
        ("#### **18**", "18"),
        ("#### The answer is $18.", "18"),
        ("#### 18. It is 20 with tax.", "18"),
        ("#### 1. First step\nhalf of 36\n#### 18", "18"),
        ("#### Step 2: add\n#### 18", "18"),
        ("#### 18\n\n#### 5", "18"),
        ("#### 12\u202f345", "12345"),
        ("so he has 12 apples and 3 pears.", "3"),
        ("he is left with 10-5", "5"),
        ("it takes 3-4", "4"),
        ("it is -4", "-4"),
        ("#### nothing", None),
        ("it costs $18.", "18"),
        ("ends with 7,", "7"),
        ("3 #### none here", "3"),
        ("half is .5", "0.5"),
        ("", None),
    ],
)
def test_final_answer(text, expected):
    assert final_answer(text) == (None if expected is None else Decimal(expected))


def test_equal_numbers_match_however_they_are_written():
    assert final_answer_score("#### 1,000.0", ["work\n#### 1000"]) == 1.0
    assert final_answer_score("#### 1.50", ["#### 1.5"]) == 1.0
    assert final_answer_score("#### 1001", ["#### 1000"]) == 0.0
    assert final_answer_score("no number", ["no number"]) == 0.0


def test_every_gsm8k_reference_has_a_final_answer_and_matches_itself():
    for row in load_rows(find_benchmarks()["gsm8k"]):
        marked = row.references[0].rpartition("####")[2].strip().replace(",", "")
        assert final_answer(row.references[0]) == Decimal(marked)
        assert final_answer_score(row.references[0], row.references) == 1.0
