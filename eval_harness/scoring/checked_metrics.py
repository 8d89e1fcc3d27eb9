"""Metrics that check an answer against its row, without a reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval_harness.results.schema import Sample
from eval_harness.scoring import ifeval


@dataclass(frozen=True)
class CheckedMetric:
    """One metric of a checker.

    Attributes:
        title: for tables.
        per_instruction: a row's score is a mean over its instructions, and the task's is one over
            all instructions, so rows with more of them weigh more.
    """

    title: str
    per_instruction: bool = False


CHECKED_METRICS: dict[str, CheckedMetric] = {
    "prompt_level_strict_acc": CheckedMetric("IFEval: all instructions of a prompt"),
    "inst_level_strict_acc": CheckedMetric("IFEval: each instruction", per_instruction=True),
    "prompt_level_loose_acc": CheckedMetric("IFEval: all, markdown and frame removed"),
    "inst_level_loose_acc": CheckedMetric(
        "IFEval: each, markdown and frame removed", per_instruction=True
    ),
}


def checked_fields(metrics: Sequence[str]) -> tuple[str, ...]:
    """The fields of a row that these metrics read."""
    return ifeval.FIELDS if any(name in CHECKED_METRICS for name in metrics) else ()


def check_rows(rows: Sequence[tuple[str, dict[str, Any]]], metrics: Sequence[str]) -> None:
    """Refuses rows that cannot be checked, and an environment without the checker.

    Args:
        rows: of each, its id and its fields.
    Raises:
        DistillensError: one line on what is missing.
    """
    if checked_fields(metrics):
        ifeval.check_rows(rows)


def score_checked(samples: Sequence[Sample], metrics: Sequence[str]) -> str:
    """Writes the scores x 100 of the checked metrics among `metrics` into the samples.

    Returns:
        Name and version of the checker, for the fingerprint; "" if there is no such metric.
    Raises:
        DistillensError: as `check_rows`.
    """
    asked = [name for name in metrics if name in CHECKED_METRICS]
    if not asked:
        return ""
    check_rows([(sample.row_id, sample.doc) for sample in samples], asked)
    for sample in samples:
        found = [ifeval.check_answer(sample.doc, text) for text in sample.filtered_resps]
        for name in asked:
            sample.scores[name] = [100 * sum(held[name]) / len(held[name]) for held in found]
    return ifeval.version()


def aggregation(metric: str) -> str:
    """How rows make a task's score, by lm-eval's names."""
    known = CHECKED_METRICS.get(metric)
    return "agg_inst_level_acc" if known is not None and known.per_instruction else "mean"


def num_items(sample: Sample, metric: str) -> int:
    """How many items a row's score is a mean of: its instructions, or 1."""
    known = CHECKED_METRICS.get(metric)
    if known is None or not known.per_instruction:
        return 1
    instructions = sample.doc.get("instruction_id_list")
    return max(1, len(instructions)) if isinstance(instructions, list) else 1
