"""Answers that do not fit the requests are refused before they are stored."""

import numpy as np
import pytest

from eval_harness.backends.base import Answer
from eval_harness.errors import RunFailure
from eval_harness.generation.checked_answers import checked_answers

GOOD = Answer(2, [1, 5], "stop")


def checked(*answers):
    return list(checked_answers(answers, backend="own", num_requests=3, done=frozenset({0})))


def test_right_answers_pass_in_any_order():
    other = Answer(np.int64(1), np.array([7, 8]), "length")
    assert checked(GOOD, other) == [GOOD, other]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Answer(0, [1], "stop"), "an answer to request 0"),
        (Answer(2, [1], "stop"), "an answer to request 2"),
        (Answer(3, [1], "stop"), "an answer to request 3"),
        (Answer(-2, [1], "stop"), "an answer to request -2"),
        (Answer("1", [1], "stop"), "an answer to request '1'"),
        (Answer(1, "text", "stop"), "'text' as the answer to request 1"),
        (Answer(1, [-1], "stop"), "integers of at least 0"),
        (Answer(1, [1.5], "stop"), "integers of at least 0"),
        (Answer(1, None, "stop"), "integers of at least 0"),
        (Answer(1, [1], "eos"), "expected an Answer"),
        (Answer(1, [1], None), "expected an Answer"),
        ((1, [1], "stop"), "expected an Answer"),
    ],
)
def test_a_wrong_answer_is_refused_and_those_before_it_are_kept(wrong, reason):
    answers = checked_answers([GOOD, wrong], backend="own", num_requests=3, done=frozenset({0}))
    assert next(answers) == GOOD
    with pytest.raises(RunFailure, match=f"backend own: .*{reason}"):
        next(answers)


def test_a_missing_answer_is_named():
    with pytest.raises(RunFailure, match="1 of 2 requests have no answer, request 1 first"):
        checked(GOOD)
