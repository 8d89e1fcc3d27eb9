"""Scores answers: ROUGE-L and exact match per row, then the numbers of a task."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.results.schema import Sample
from eval_harness.scoring.checked_metrics import CHECKED_METRICS, score_checked
from eval_harness.scoring.metrics import DEFAULT_METRICS, METRICS, with_defaults
from eval_harness.scoring.rouge import rouge_backend, rouge_version, tokenizer_version
from eval_harness.scoring.rouge_words import word_counts
from eval_harness.scoring.unreadable import unreadable_counts
from eval_harness.shared.files.json_files import names, shown
from eval_harness.shared.files.jsonl import read_jsonl
from eval_harness.shared.near import near_names
from eval_harness.shared.text.answers import without_empty
from eval_harness.shared.text.messages import conversation_column
from eval_harness.shared.text.questions import read_question

_NUM_NAMED = 5


@dataclass(frozen=True)
class References:
    """A file of references: ids in file order, and one non-empty list of texts for each."""

    path: str
    ids: list[str | int]
    texts: list[list[str]]
    rows: list[dict[str, Any]]


def score_rows(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    backend: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, list[float]]:
    """Scores of each row by metric: N fractions in [0, 1] each.

    Args:
        predictions: N texts.
        references: N non-empty sequences of texts; the best one counts.
        backend: see `rouge.rouge_l`.
        metrics: names of `METRICS`; ROUGE-L and exact match are always included.
    """
    return {
        name: METRICS[name].score(predictions, references, backend)
        for name in with_defaults(metrics)
    }


def score_samples(
    samples: Sequence[Sample],
    *,
    backend: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> str:
    """Writes the scores of every seed into the samples (`sample.scores`, x 100).

    A sample without references gets the scores of checked metrics only.

    Args:
        samples: any number, with any number of seeds; their `filtered_resps` are scored.
        backend: see `rouge.rouge_l`.
        metrics: of a benchmark; with references, ROUGE-L and exact match are always included.
    Returns:
        Names and versions of the scorers, for the result's fingerprint.
    """
    checker = score_checked(samples, metrics)
    samples = [sample for sample in samples if sample.target]
    if not samples:
        return checker
    backend = rouge_backend(backend)
    predictions = [text for sample in samples for text in sample.filtered_resps]
    references = [sample.target for sample in samples for _ in sample.filtered_resps]
    scores = score_rows(predictions, references, backend=backend, metrics=metrics)
    for name, values in scores.items():
        start = 0
        for sample in samples:
            end = start + len(sample.filtered_resps)
            sample.scores[name] = [100 * value for value in values[start:end]]
            start = end
    return ", ".join(filter(None, [rouge_version(backend), checker]))


def expected_metrics(sample: Sample, metrics: Sequence[str]) -> list[str]:
    """The metrics among a benchmark's that `score_samples` gives this sample."""
    checked = [name for name in metrics if name in CHECKED_METRICS]
    return [*(with_defaults(metrics) if sample.target else ()), *checked]


def percent(values: Sequence[float]) -> float:
    """The mean of fractions x 100, rounded to 4 decimals as the protocol reports it."""
    return round(100 * math.fsum(values) / len(values), 4)


def score_files(
    predictions: str | os.PathLike[str],
    references: str | os.PathLike[str],
    *,
    backend: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, Any]:
    """What `eval-harness score` prints.

    Args:
        predictions: JSON Lines of `id` and `text`, in any order.
        references: JSON Lines of `id` and `output` (a text, or a list of at least one), or of `id`
            and a conversation, whose last answer counts.
        metrics: names of `METRICS`; ROUGE-L and exact match are always included.
    Returns:
        Each metric (x 100, 4 decimals), num_rows, how many rows have no reference and how many
        predictions have no word that ROUGE-L sees, scorer, and rows in the order of the
        references: id, and each metric (fractions in [0, 1]).
    Raises:
        DistillensError: a malformed row, or missing, extra or duplicate ids; names them.
    """
    # Before anything is read, since it may not be installed.
    backend = rouge_backend(backend)
    expected = read_references(references)
    return score_against(expected, predictions, backend=backend, metrics=metrics)


def score_against(
    expected: References,
    predictions: str | os.PathLike[str],
    *,
    backend: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, Any]:
    """The same for references that have been read."""
    backend = rouge_backend(backend)
    texts = read_predictions(predictions, expected)
    result = _summary(texts, expected.texts, backend=backend, metrics=metrics)
    result["rows"] = [
        {"id": row_id, **row} for row_id, row in zip(expected.ids, result["rows"], strict=True)
    ]
    return result


def score_texts(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    backend: str | None = None,
) -> dict[str, Any]:
    """The same for texts in memory; rows have no id. See `eval_harness.score`."""
    backend = rouge_backend(backend)
    if isinstance(predictions, str) or not all(isinstance(text, str) for text in predictions):
        raise DistillensError("predictions: expected a list of texts")
    if len(predictions) != len(references) or not predictions:
        raise DistillensError(
            f"found {len(predictions)} predictions and {len(references)} references, expected at "
            "least one prediction, and a reference (or a list of them) for each"
        )
    for name in metrics:
        if name not in METRICS:
            raise DistillensError(
                f"metric {name!r} is not known, expected {', '.join(METRICS)}"
                f"{near_names(str(name), METRICS)}"
            )
    texts = [
        _checked_references(found, f"references[{row}]") for row, found in enumerate(references)
    ]
    return _summary(list(predictions), texts, backend=backend, metrics=metrics)


def _summary(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    backend: str,
    metrics: Sequence[str],
) -> dict[str, Any]:
    scores = score_rows(texts, references, backend=backend, metrics=metrics)
    return {
        **{name: percent(values) for name, values in scores.items()},
        "num_rows": len(texts),
        **word_counts(scores, references, texts, "predictions"),
        **unreadable_counts(scores, references, texts, "predictions"),
        "scorer": rouge_version(backend),
        **tokenizer_version(scores),
        "rows": [
            {name: values[row] for name, values in scores.items()} for row in range(len(texts))
        ],
    }


def _checked_references(output: object, where: str) -> list[str]:
    outputs = [output] if isinstance(output, str) else output
    if not isinstance(outputs, list | tuple) or not all(isinstance(text, str) for text in outputs):
        raise DistillensError(f"{where} must be a text or a list of texts")
    if not outputs:
        raise DistillensError(f"{where} is an empty list; give at least one reference")
    return without_empty(outputs)


def read_references(path: str | os.PathLike[str]) -> References:
    """Reads a benchmark file's references: each row's `output`, or the last answer in its messages.

    Raises:
        DistillensError: file:line of a row without `id` or a reference, with an empty list of
            references, or with the id of an earlier row.
    """
    ids: list[str | int] = []
    texts: list[list[str]] = []
    rows: list[dict[str, Any]] = []
    lines: dict[str, int] = {}
    for line, row in read_jsonl(path):
        where = f"{os.fspath(path)}:{line}"
        ids.append(_new_id(row, where, line, lines))
        texts.append(_references_of(row, where))
        rows.append(row)
    return References(path=os.fspath(path), ids=ids, texts=texts, rows=rows)


def _references_of(row: dict[str, Any], where: str) -> list[str]:
    column = conversation_column(row)
    if column is not None:
        _, reference = read_question(row, where, column=column, newline=None)
        if reference is not None:
            return [reference]
    return _checked_references(_key(row, "output", where), f"{where}: output")


def read_predictions(path: str | os.PathLike[str], references: References) -> list[str]:
    """Reads a prediction file and puts its texts in the order of the references.

    Raises:
        DistillensError: file:line of a malformed row; missing, extra or duplicate ids.
    """
    name = os.fspath(path)
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in read_jsonl(path):
        where = f"{name}:{line}"
        row_id = _new_id(row, where, line, lines)
        text = _key(row, "text", where)
        if not isinstance(text, str):
            raise DistillensError(f"{where}: text must be a string, found {shown(text)}")
        texts[str(row_id)] = text
    expected = {str(row_id): None for row_id in references.ids}
    extra = [row_id for row_id in texts if row_id not in expected]
    missing = [row_id for row_id in expected if row_id not in texts]
    faults = []
    if extra:
        faults.append(f"{named(extra)} (line {lines[extra[0]]}) not in {references.path}")
    if missing:
        faults.append(f"{named(missing)} of {references.path} missing")
    if faults:
        raise DistillensError(f"{name}: {'; '.join(faults)}")
    return [texts[str(row_id)] for row_id in references.ids]


def named(ids: Sequence[str]) -> str:
    """The first few ids by name and the number of the rest: "ids 'a', 'b' and 3 more"."""
    first = ", ".join(shown(row_id) for row_id in ids[:_NUM_NAMED])
    rest = f" and {len(ids) - _NUM_NAMED} more" if len(ids) > _NUM_NAMED else ""
    return f"{'id' if len(ids) == 1 else 'ids'} {first}{rest}"


def _new_id(row: dict[str, Any], where: str, line: int, lines: dict[str, int]) -> str | int:
    row_id = _key(row, "id", where)
    if isinstance(row_id, bool) or not isinstance(row_id, str | int):
        raise DistillensError(f"{where}: id must be a string or an integer, found {shown(row_id)}")
    if str(row_id) in lines:
        raise DistillensError(
            f"{where}: id {shown(row_id)} is already on line {lines[str(row_id)]}; ids must differ"
        )
    lines[str(row_id)] = line
    return row_id


def _key(row: dict[str, Any], key: str, where: str) -> Any:
    if key not in row:
        raise DistillensError(f"{where}: no key {key!r}; found {names(row)}")
    return row[key]
