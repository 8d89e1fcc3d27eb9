"""What is said while a run goes on."""

import io
import re
import sys
import time

import pytest

from eval_harness.generation import progress
from eval_harness.generation.processes import Processes
from eval_harness.generation.progress import Progress, in_words, said_to_last


class Second(Processes):
    """A process that is not the main one."""

    rank, size = 1, 2


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "SAY_EVERY_S", 0.0)


def test_without_a_terminal_it_is_a_plain_line_now_and_then(at_once, capsys):
    with Progress(40, 10, unit="answer") as shown:
        for _ in range(2):
            shown.add(5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"eval-harness: 12 of 40 answers, [\d.]+ answers/s, \d+ tokens/s, about \d+ s left",
        lines[1],
    )


def test_lines_are_rare(capsys):
    with Progress(1000, 0, unit="answer") as shown:
        for _ in range(1000):
            shown.add(1)
    assert capsys.readouterr().err == ""
    assert shown.totals() == (1000, 1000)


def test_before_the_first_answer_the_line_says_since_when(at_once, capsys):
    with Progress(4, 1, unit="reference") as shown:
        shown.tick()
    assert "eval-harness: 1 of 4 references after 0 s" in capsys.readouterr().err


def test_a_terminal_has_a_bar_that_ends_full(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(4, 1, unit="answer") as shown:
        for _ in range(3):
            shown.add(5)
    assert "4/4" in terminal.getvalue().split("\r")[-1]


def test_only_the_main_process_shows_it(at_once, capsys):
    with Progress(4, 1, unit="answer", processes=Second()) as shown:
        shown.add(5)
    assert capsys.readouterr().err == ""


def test_a_step_that_cannot_be_counted_is_said_to_last(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SAY_EVERY_S", 0.01)
    with said_to_last("scoring small"):
        time.sleep(0.2)
    assert "eval-harness: scoring small: 0 s so far" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with said_to_last("scoring small"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_durations_in_words():
    assert [in_words(s) for s in (0, 99, 100, 3600, 12000)] == [
        "0 s",
        "99 s",
        "2 min",
        "60 min",
        "3 h 20 min",
    ]
