"""Odd numbers on the command line: a value, or one short line."""

import argparse

import pytest

from eval_harness.errors import DistillensError
from eval_harness.shared.program.flag_numbers import batch_size, count, limit, seeds

HUGE = "1" * 5000


def test_numbers_are_read():
    assert (limit(None), limit("3"), limit("1e3"), limit("0.5")) == (None, 3, 1000, 0.5)
    assert (batch_size("auto"), batch_size("8")) == (None, 8)
    assert (seeds(None), seeds("1, 2,-3")) == (None, [1, 2, -3])
    assert count("256") == 256


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "-inf", "1e400", HUGE, "", "1_0"])
def test_odd_limits_are_refused(text):
    refused(DistillensError, "--limit", limit, text)


@pytest.mark.parametrize(
    "text", ["0", "-1", "1.5", "nan", "inf", "1e3", HUGE, "", "1_0", "٣", "AUTO"]
)
def test_odd_batch_sizes_are_refused(text):
    refused(DistillensError, "--batch_size", batch_size, text)


@pytest.mark.parametrize("text", ["", "1,", "1,x", "1.5", "nan", HUGE, "1_0", str(2**63)])
def test_odd_seeds_are_refused(text):
    refused(DistillensError, "--seed", seeds, text)


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "nan", "1e400", HUGE, str(2**31), ""])
def test_odd_counts_are_refused(text):
    refused(argparse.ArgumentTypeError, "", count, text)


def refused(error: type[Exception], start: str, read, text: str) -> None:
    with pytest.raises(error) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith(start)
    assert len(message) < 200
    assert "\n" not in message
