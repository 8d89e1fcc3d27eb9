"""The numbers of one task, under lm-eval's names."""

import math
from collections.abc import Sequence

import numpy as np

from eval_harness.results.schema import NOT_AVAILABLE, Sample, metric_names
from eval_harness.scoring.answer_length import answer_statistics
from eval_harness.scoring.rouge_words import word_counts
from eval_harness.scoring.row_scores import row_scores, scored_by
from eval_harness.scoring.unreadable import unreadable_counts
from eval_harness.shared.statistics import (
    bootstrap_interval,
    row_means,
    seed_deviation,
    seed_means,
    standard_error,
)

Metric = float | int | str | list[float]


def task_metrics(samples: Sequence[Sample]) -> dict[str, Metric]:
    """Metrics of scored samples, in the unit of the rows' scores and rounded to 4 decimals.

    For each metric M that every scored sample has: "M,none" (mean of the rows' seed averages),
    "M_stderr,none" (over rows), "M_ci_low,none" and "M_ci_high,none" (95 % row bootstrap),
    "M_per_seed,none", and "M_seed_sd,none" (sampling noise: the spread of the per-seed scores).
    "num_scored,none" if only some samples have scores; the metrics are over these.
    With ROUGE-L also how many rows have no reference, and how many answers have no word that it
    sees; with final_answer, how many have no single number. Also length_words, length_tokens,
    empty, cut_off and distinct_4 (see answer_length).
    A value that does not exist, such as the error of one row, is "N/A", lm-eval's word for it.

    Args:
        samples: at least one, all with the same seeds.
    """
    metrics: dict[str, Metric] = {}
    for name in metric_names(samples):
        scored = scored_by(samples, name)
        if len(scored) < len(samples):
            metrics["num_scored,none"] = len(scored)
        scores = row_scores(scored, name)
        rows = row_means(scores)
        # Rows with identical scores (exact match 0 everywhere) do not show how scores would vary.
        interval = bootstrap_interval(rows) if np.ptp(rows) > 0 else None
        metrics[f"{name},none"] = round(math.fsum(rows) / len(rows), 4)
        metrics[f"{name}_stderr,none"] = _rounded(standard_error(rows))
        metrics[f"{name}_ci_low,none"] = _rounded(interval[0] if interval else None)
        metrics[f"{name}_ci_high,none"] = _rounded(interval[1] if interval else None)
        metrics[f"{name}_seed_sd,none"] = _rounded(seed_deviation(scores))
        metrics[f"{name}_per_seed,none"] = [round(mean, 4) for mean in seed_means(scores)]
        references = [sample.target for sample in scored]
        answers = [text for sample in scored for text in sample.filtered_resps]
        counts = word_counts([name], references, answers, "answers")
        counts |= unreadable_counts([name], references, answers, "answers")
        metrics |= {f"{key},none": value for key, value in counts.items()}
    if any(sample.is_choice for sample in samples):
        return metrics
    for name, value in answer_statistics(samples).as_metrics().items():
        metrics[f"{name},none"] = round(value, 4)
    return metrics


def _rounded(value: float | None) -> float | str:
    if value is None or not math.isfinite(value):
        return NOT_AVAILABLE
    return round(value, 4)
