"""Final numbers of worked problems: which one it is, and which answers have none."""

from fractions import Fraction

import pytest

from eval_harness.benchmarks import find_benchmarks, load_rows
from eval_harness.shared.text.answers import cut_answer
from eval_harness.shared.text.final_answers import (
    final_answer,
    final_answer_score,
    is_unreadable,
    read_answer,
)
from eval_harness.shared.text.prompt_starts import prompt_starts

NEXT = "\n\nQuestion: Tom has 3 pens and buys 2.\nAnswer:\n3+2=5\n#### 5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6 * 7 = 42\n#### 42", "42"),
        ("#### $1,234.50 dollars, not 3", "1234.5"),
        ("####-5", "-5"),
        ("#### \\boxed{18}", "18"),
        ("#### The answer is $18.", "18"),
        ("#### 18. It is 20 with tax.", "18"),
        ("#### 1. First step\nhalf of 36\n#### 18", "18"),
        ("#### Step 2: add\n#### 18", "18"),
        ("#### 18\n\n#### 5", "18"),
        ("\\#\\#\\#\\# 18", "18"),
        ("#### 20 * 3 = 60", "60"),
        ("#### 2 pizzas * 8 slices = 16 slices", "16"),
        ("#### 18 = 3 * 6", "18"),
        ("so he has 12 apples and 3 pears.", "3"),
        ("it is -4", "-4"),
        ("he makes 9 * 2 = <<9*2=18>>18", "18"),
        ("3 #### none here", "3"),
        ("The answer is $\\boxed{\\frac{3}{4}}$, since 3 of 4 left 5.", "3/4"),
        ("\\boxed{1} and then \\boxed{2}, in 3 steps", "2"),
        ("\\boxed{\\text{none}} 7", "7"),
        ("it is \\boxed{\\frac{3}{4", "3"),
        ("#### nothing", None),
        ("", None),
    ],
)
def test_the_mark_then_the_box_then_the_last_number(text, expected):
    assert final_answer(text) == (None if expected is None else Fraction(expected))


@pytest.mark.parametrize(
    "text",
    [
        "he is left with 10-5",
        "#### 5-7",
        "it takes 3\u20134",
        "#### 3,4",
        "#### 5 + 3",
        "\\boxed{5, 6}",
    ],
)
def test_what_is_not_one_number_is_not_guessed(text):
    assert final_answer(text) is None
    assert read_answer(text) is not None
    for number in ("4", "5", "6", "7", "8", "34", "3.4"):
        assert final_answer_score(text, [f"#### {number}"]) == 0.0
    assert is_unreadable(text, ["#### 99"])
    assert not is_unreadable(text, ["#### 99", text])


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("#### 1,000.0", "work\n#### 1000", 1.0),
        ("#### 1.50", "#### 1.5", 1.0),
        ("#### 0.75", "#### \\frac{3}{4}", 1.0),
        ("#### 1001", "#### 1000", 0.0),
        ("no number", "no number", 0.0),
        # What is not one number is right where the reference says the same.
        ("It is between 5 and 7.", "#### 5-7", 1.0),
        ("#### 5 to 8", "#### 5-7", 0.0),
        ("#### 3,4", "#### 3,4", 1.0),
        ("#### 3.4", "#### 3,4", 0.0),
        ("#### 3 and 4", "#### 3, 4", 1.0),
        ("#### 2\\sqrt{3}", "#### $2\\sqrt3$.", 1.0),
        ("#### 2\\sqrt{3}", "#### $2\\sqrt{3}$", 1.0),
        ("#### 2\\sqrt{3}", "#### 2\\sqrt{5}", 0.0),
        ("#### 2", "#### 2\\sqrt{3}", 0.0),
    ],
)
def test_scores(answer, reference, score):
    assert final_answer_score(answer, ["#### 99", reference]) == score


def test_every_gsm8k_reference_has_the_number_behind_its_mark_however_it_is_told():
    until = prompt_starts("question")
    rows = load_rows(find_benchmarks()["gsm8k"])
    assert len(rows) == 1319
    for row in rows:
        (reference,) = row.references
        work, _, marked = reference.rpartition("####")
        number = Fraction(marked.strip().replace(",", ""))
        assert final_answer(reference) == number, row.row_id
        told = [
            f"{work}#### **{marked.strip()}**",
            f"{work}The answer is ${marked.strip()}.",
            reference + NEXT,
            cut_answer(f"{work}The answer is {marked.strip()}.{NEXT}", until=until),
        ]
        # Each of them for a quarter of the rows.
        assert final_answer(told[row.doc_id % 4]) == number, row.row_id
