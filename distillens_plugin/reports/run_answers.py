"""Answers through training, as pages show them: a few rows, a few steps of each, safe to show."""

from collections.abc import Sequence
from dataclasses import dataclass

from distillens_plugin.reports.run_files import AnswerLine
from distillens_plugin.reports.run_records import Run
from eval_harness import printable

_MOST_ROWS, _MOST_STEPS = 8, 8


@dataclass(frozen=True)
class AnsweredRow:
    """A row, and what was answered to it.

    Attributes:
        answers: (which step, and of which run; text), oldest first.
    """

    row: str
    prompt: str
    reference: str | None
    answers: list[tuple[str, str]]


def answered_rows(runs: Sequence[Run]) -> list[AnsweredRow]:
    """Of one run the answers through training; of several the last of each.

    Rows are those of the first run that has answers; no more than 8, with 8 steps each.
    """
    rows = {
        (line.row, line.prompt): line for run in reversed(runs) for line in reversed(run.answers)
    }
    first = list(reversed(rows.items()))[:_MOST_ROWS]
    return [
        AnsweredRow(
            row=printable(str(line.row)),
            prompt=printable(line.prompt),
            reference=None if line.reference is None else printable(line.reference),
            answers=[pair for run in runs for pair in _answers(run, key, several=len(runs) > 1)],
        )
        for key, line in first
    ]


def _answers(run: Run, key: tuple[str | int, str], *, several: bool) -> list[tuple[str, str]]:
    # A step that was answered twice (a run that was continued) counts once.
    of_row = {line.step: line for line in run.answers if (line.row, line.prompt) == key}
    lines = [of_row[step] for step in sorted(of_row)]
    shown = lines[-1:] if several else _spread(lines)
    whose = f"{run.name}, " if several else ""
    return [(f"{whose}step {line.step:,}", printable(line.answer)) for line in shown]


def _spread(lines: list[AnswerLine]) -> list[AnswerLine]:
    """The first, the last, and others evenly between."""
    if len(lines) <= _MOST_STEPS:
        return lines
    last = len(lines) - 1
    places = sorted({round(last * number / (_MOST_STEPS - 1)) for number in range(_MOST_STEPS)})
    return [lines[place] for place in places]
