"""lm-eval's key=value lists."""

import pytest

from eval_harness.errors import DistillensError
from eval_harness.shared.program.key_values import (
    NAMES,
    check_names_are_texts,
    format_key_values,
    parse_key_values,
    read_key_values,
)


def test_values_get_their_types():
    text = "pretrained=/a/b,n=3,x=0.5,yes=True,no=false,nothing=None,name=1e,small=1e-3,minus=-2"
    assert parse_key_values(text, flag="--x") == {
        "pretrained": "/a/b",
        "n": 3,
        "x": 0.5,
        "yes": True,
        "no": False,
        "nothing": None,
        "name": "1e",
        "small": 0.001,
        "minus": -2,
    }


@pytest.mark.parametrize("key", sorted(NAMES))
@pytest.mark.parametrize(
    "name",
    ["1234567", "12345e6", "0010", "1e3", "2024_11_26", "true", "none", "[x]", "{a}", "1" * 5000],
)
def test_names_stay_text(key, name):
    assert parse_key_values(f"{key}={name},n=1", flag="--x") == {key: name, "n": 1}


@pytest.mark.parametrize("text", ["007", "1_000", "nan", "inf", "-inf", "Infinity", "٣", "0x10"])
def test_what_json_would_not_write_as_a_number_stays_text(text):
    assert parse_key_values(f"a={text}", flag="--x") == {"a": text}


def test_commas_in_brackets_and_quotes_do_not_separate():
    text = 'a={"b": [1, 2], "c": "x,y"},d=[1,2] , e="x, y=1"'
    assert parse_key_values(text, flag="--x") == {
        "a": {"b": [1, 2], "c": "x,y"},
        "d": [1, 2],
        "e": "x, y=1",
    }


def test_a_quoted_value_is_one_text_and_hides_no_key():
    text = 'pretrained="a,trust_remote_code=True",n="3"'
    assert parse_key_values(text, flag="--x") == {
        "pretrained": "a,trust_remote_code=True",
        "n": "3",
    }


def test_quotes_and_brackets_within_a_value_are_ordinary():
    assert parse_key_values('a=x"y,b=2,c=z[1', flag="--x") == {"a": 'x"y', "b": 2, "c": "z[1"}


def test_stops_are_a_text_or_a_list():
    assert parse_key_values("until=18", flag="--x") == {"until": "18"}
    assert parse_key_values('until=["\\n\\n", "a,b"]', flag="--x") == {"until": ["\n\n", "a,b"]}
    assert parse_key_values("until=[]", flag="--x") == {"until": []}


def test_nothing_is_nothing():
    assert parse_key_values("", flag="--x") == {}
    assert parse_key_values(" , ", flag="--x") == {}
    assert parse_key_values("a=", flag="--x") == {"a": ""}


def test_the_value_may_hold_an_equals_sign():
    assert parse_key_values("a=b=c", flag="--x") == {"a": "b=c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "--x 'a': expected key=value"),
        ("a,b=1", "--x 'a': expected key=value"),
        ("=1", "expected key"),
        ("a=1,a=2", "--x a: given twice"),
        ("a=[1,2", r"--x a: begins with \[ but is not JSON"),
        ("a={'b': 1}", r"--x a: begins with { but is not JSON .*; use double quotes"),
        ('a="b', '--x a: begins with " but is not JSON'),
        ('a="b"c', "--x a: 'c' follows the closing \""),
        ("a=[NaN]", "--x a: begins with"),
        ("a=" + "1" * 5000, r"--x a: 1{60}\.\.\. is too large or too long for a number"),
        ("a=[" + "1" * 5000 + "]", "--x a: begins with"),
        ("a=" + "[" * 100_000, "--x a: begins with"),
        ("a=1e400", "--x a: 1e400 is too large"),
    ],
)
def test_wrong_lists_are_refused(text, message):
    with pytest.raises(DistillensError, match=message) as caught:
        parse_key_values(text, flag="--x")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["x", "a,b=1", '"', "", " x ", "true", "3", "007", "[1", "a\nb", 3, 0.5, True, None, [1, "a,"]],
)
def test_what_is_written_is_read_back(value):
    values = {"pretrained": str(value), "n": value, "revision": None, "last": 1}
    expected = {key: value for key, value in values.items() if key != "revision"}
    assert parse_key_values(format_key_values(values), flag="--x") == expected


@pytest.mark.parametrize(
    "given", [["a=1,b=x"], ["a=1", "b=x"], "a=1,b=x", ['{"a": 1, "b": "x"}'], ["a=1,", " b=x"]]
)
def test_several_texts_or_one_json_object_give_the_same(given):
    assert read_key_values(given, flag="--x") == {"a": 1, "b": "x"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["a=1", "a=2"], "--x a: given twice"),
        (["a=1", "b"], "'b': expected key=value"),
        (['{"a": 1'], "begins with { but is not JSON"),
        (['{"a": 1} b'], "follows the closing }"),
        (['{"revision": 12}'], "--x revision = 12 is int"),
    ],
)
def test_several_texts_are_refused_as_one_is(given, words):
    with pytest.raises(DistillensError) as error:
        read_key_values(given, flag="--x")
    assert words in str(error.value)


@pytest.mark.parametrize("key", sorted(NAMES))
def test_a_name_from_python_or_yaml_is_a_text(key):
    check_names_are_texts({key: "0010", "n": 3}, flag="--x")
    check_names_are_texts({key: None}, flag="--x")
    with pytest.raises(DistillensError, match="is int, but it is a name"):
        check_names_are_texts({key: 1234567}, flag="--x")
