"""lm-eval's key=value lists."""

import pytest

from eval_harness.errors import DistillensError
from eval_harness.key_values import parse_key_values


def test_values_get_their_types():
    text = "pretrained=/a/b,n=3,x=0.5,yes=True,no=false,nothing=None,name=1e"
    assert parse_key_values(text, flag="--x") == {
        "pretrained": "/a/b",
        "n": 3,
        "x": 0.5,
        "yes": True,
        "no": False,
        "nothing": None,
        "name": "1e",
    }


def test_commas_in_brackets_and_quotes_do_not_separate():
    text = 'a={"b": [1, 2], "c": "x,y"},d=[1,2]'
    assert parse_key_values(text, flag="--x") == {"a": {"b": [1, 2], "c": "x,y"}, "d": [1, 2]}


def test_nothing_is_nothing():
    assert parse_key_values("", flag="--x") == {}


def test_the_value_may_hold_an_equals_sign():
    assert parse_key_values("a=b=c", flag="--x") == {"a": "b=c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "--x 'a': expected key=value"),
        ("=1", "expected key"),
        ("a=1,a=2", "--x a: given twice"),
    ],
)
def test_wrong_lists_are_refused(text, message):
    with pytest.raises(DistillensError, match=message):
        parse_key_values(text, flag="--x")
