"""The cut: the end mark, the next prompt that a model invents, newline marks, references."""

import pytest

from eval_harness.scoring.score import score_rows
from eval_harness.shared.text.answers import (
    cut_answer,
    cut_at_stop,
    final_answer_score,
    without_empty,
)

QUESTION = ("\nQuestion:",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a \n", "a"),
        ("a<|endoftext|>b", "a"),
        ("<|endoftext|>a", ""),
        ("a\u2028b\x85c\x00", "a\u2028b\x85c\x00"),
        ("\ud800 x", "\ud800 x"),
        ("struct Box<n> { a: Array<n> }", "struct Box<n> { a: Array<n> }"),
        ("18\n\nQuestion: Tom has 3 pens.", "18"),
        ("The word Question: is in the line", "The word Question: is in the line"),
        ("18\n\n### Instruction:\nAnother.", "18"),
        ("18 Below is an instruction that describes a task. Write a response that "
         "appropriately completes the request.\n\n", "18"),
    ],
)  # fmt: skip
def test_cut(text, expected):
    assert cut_answer(text) == expected


def test_newline_marks_are_read_only_where_the_data_set_has_them():
    assert cut_answer("a<n>b<n>", newline="<n>") == "a\nb"
    assert cut_answer("a<br>b", newline="<br>") == "a\nb"


def test_stops_can_be_chosen_and_switched_off():
    text = "18\nQuestion: 2?\nEND 3"
    assert cut_answer(text, until=()) == text
    assert cut_answer(text, until=["END"]) == "18\nQuestion: 2?"
    assert cut_answer(text, until=["END", "\nQuestion:"]) == "18"


@pytest.mark.parametrize(
    "reference",
    [
        "struct Box<n> { a: Array<n> }",
        "A form:\nQuestion: name?\nAnswer: yours",
        "GPT-2 ends a text with <|endoftext|> and goes on.",
        "Question: how many?",
        "### Instruction:\nwrite\n### Instruction:\nagain",
    ],
)
def test_an_answer_that_equals_its_reference_has_full_marks(reference):
    for text in (reference, f"\n\n{reference}\n"):
        for starts in (None, QUESTION):
            answer = cut_answer(text, starts=starts, references=[reference])
            assert score_rows([answer], [[reference]]) == {"rougeL": [1.0], "exact_match": [1.0]}


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("\n", "It is Lima. Quito"), (".", "It is Lima"), ("Quito", "It is Lima.")],
)
def test_a_stop_that_somebody_names_is_used_in_every_row(stop, expected):
    text = "It is Lima. Quito\nis another."
    assert cut_answer(text, until=[stop], references=[text]) == expected
    assert cut_answer(text, starts=[stop], references=[text]) == text


def test_what_a_stop_ended_is_known_also_where_no_word_is_lost():
    assert cut_at_stop("a<n>", until=["\n"], newline="<n>") == ("a", True)
    assert cut_at_stop(" a<n>", newline="<n>") == ("a", False)


def test_an_answer_that_runs_on_is_scored_by_its_own_part():
    text = "16-3-4=9\n9*2=18\n#### 18\n\nQuestion: Tom has 3 pens.\nAnswer:\n3+2=5\n#### 5"
    assert final_answer_score(cut_answer(text, until=QUESTION), ["#### 18"]) == 1.0
    text = "The answer is 18.\nQuestion: Tom has 3 pens"
    assert final_answer_score(cut_answer(text, until=QUESTION), ["#### 18"]) == 1.0


def test_empty_references_beside_others_are_left_out():
    assert without_empty(["", "a", " \n", "b"]) == ["a", "b"]
    assert without_empty(["", " "]) == ["", " "]
