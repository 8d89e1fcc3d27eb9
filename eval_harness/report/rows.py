"""Which metric a report is about, which rows it shows in full, and their text, safe to show."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval_harness.comparison.systems import System
from eval_harness.errors import DistillensError
from eval_harness.results.schema import Sample
from eval_harness.scoring.row_scores import scored_by
from eval_harness.shared.files.jsonl import replace_lone_surrogates
from eval_harness.shared.statistics import row_means
from eval_harness.shared.text.messages import Message, conversation_column
from eval_harness.shared.text.questions import read_question

_MOST_CHARACTERS = 6000
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# They turn the letters after them around, those of the page too.
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Answer:
    """One system's answer to a row: the text of its first seed, and the scores x 100."""

    system: str
    text: str
    seed: int
    score: float
    mean: float
    num_seeds: int


@dataclass(frozen=True)
class ShownRow:
    """A row with every system's answer side by side; all texts are ready to show."""

    row_id: str
    prompt: str
    references: list[str]
    spread: float
    answers: list[Answer]


def primary_metric(scored: Sequence[str], metrics: Mapping[str, Any]) -> str:
    """What plots and rows are about: ROUGE-L, of the words that the references have.

    Args:
        scored: names of the metrics that all systems have, at least one.
        metrics: of a task.
    """
    unseen = metrics.get("num_references_without_words,none", 0)
    first = ("rougeL_unicode", "rougeL") if unseen else ("rougeL",)
    return next((name for name in first if name in scored), scored[0])


def rows_that_differ(
    systems: Sequence[System], task: str, *, metric: str, num_rows: int
) -> list[ShownRow]:
    """The rows where the systems' scores differ most, the largest difference first.

    Args:
        systems: K, with the same rows in the same order. For one system: its lowest rows.
        metric: the score to compare.
        num_rows: the largest number of rows; those without any difference are left out.
    """
    scored = [scored_by(system.samples[task], metric) for system in systems]
    means = np.stack([row_means([sample.scores[metric] for sample in own]) for own in scored])
    spread = np.ptp(means, axis=0)
    order = np.argsort(-spread if len(systems) > 1 else means[0], kind="stable")
    chosen = [int(row) for row in order if len(systems) == 1 or spread[row] > 0][:num_rows]
    return [
        ShownRow(
            row_id=printable(scored[0][row].row_id),
            prompt=printable(_question(scored[0][row])),
            references=[printable(text) for text in scored[0][row].target],
            spread=float(spread[row]),
            answers=[
                _answer(system.name, scored[index][row], metric, float(means[index, row]))
                for index, system in enumerate(systems)
            ],
        )
        for row in chosen
    ]


def prompt_text(doc: dict[str, Any]) -> str:
    """The question for a reader: a conversation, instruction and input, or a ready prompt."""
    column = conversation_column(doc)
    if column is not None:
        try:
            question, _ = read_question(doc, "row", column=column, newline=None)
        except DistillensError:  # a samples file from elsewhere
            return str(doc[column])
        return "\n\n".join(_turn(message) for message in question.messages)
    parts = [str(doc.get(key) or "") for key in ("instruction", "input")]
    return "\n".join(filter(None, parts)) or str(doc.get("prompt", ""))


def _question(sample: Sample) -> str:
    """Rows of lm-eval's tasks have fields of their own; their prompt says what they ask."""
    return prompt_text(sample.doc) or sample.prompt


def _turn(message: Message) -> str:
    calls = [f"{call.name}({json.dumps(call.arguments)})" for call in message.tool_calls]
    return f"{message.role}: " + "\n".join(filter(None, [message.content, *calls]))


def printable(text: str) -> str:
    """The text with invisible characters, and those that a page cannot hold, made visible.

    Control characters become \\x.. escapes, those that turn the direction of writing \\u.... ones,
    lone surrogates U+FFFD; line feeds and tabs stay. Texts of more than a few thousand characters
    are truncated, and say so.
    """
    cut = text[:_MOST_CHARACTERS].replace("\r\n", "\n")
    shown = _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", cut)
    shown = _DIRECTIONS.sub(lambda match: f"\\u{ord(match.group()):04x}", shown)
    rest = len(text) - _MOST_CHARACTERS
    more = f" [... {rest} more characters]" if rest > 0 else ""
    return replace_lone_surrogates(shown) + more


def _answer(system: str, sample: Sample, metric: str, mean: float) -> Answer:
    return Answer(
        system=printable(system),
        text=printable(sample.filtered_resps[0]),
        seed=sample.seeds[0],
        score=sample.scores[metric][0],
        mean=mean,
        num_seeds=len(sample.seeds),
    )
