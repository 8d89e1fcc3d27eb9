"""The rows that a metric has scored, and what they count in a task's mean."""

from collections.abc import Sequence

from eval_harness.results.schema import Sample
from eval_harness.scoring.checked_metrics import num_items


def scored_by(samples: Sequence[Sample], metric: str) -> list[Sample]:
    """The samples with a score: rows without a reference have none."""
    return [sample for sample in samples if metric in sample.scores]


def row_scores(
    samples: Sequence[Sample], metric: str, *, paired: bool = False
) -> list[list[float]]:
    """[N, S] scores of the samples, so that their mean is the task's score.

    Rows of several items (IFEval's instructions) weigh as many times, since the task's score is a
    mean over items. Their scores become those of the linearised ratio, R + (w / mean w) (x - R)
    with R the task's score: their mean is R, and their spread is that of R, as the statistics of
    rows expect.

    Args:
        samples: N, all with the metric and the same S seeds.
        paired: scores to subtract from those of another system on the same rows. They are
            (w / mean w) x, whose mean is R too. Rows that both answer equally well then differ by
            0; linearised, each around its own R, they would differ by what nobody answered.
    """
    scores = [sample.scores[metric] for sample in samples]
    weights = [num_items(sample, metric) for sample in samples]
    if len(set(weights)) <= 1:
        return scores
    total = sum(weights)
    if paired:
        return [
            [weight * len(weights) / total * score for score in row]
            for row, weight in zip(scores, weights, strict=True)
        ]
    by_seed = list(zip(*scores, strict=True))
    ratios = [
        sum(weight * score for weight, score in zip(weights, column, strict=True)) / total
        for column in by_seed
    ]
    return [
        [
            ratio + weight * len(weights) / total * (score - ratio)
            for score, ratio in zip(row, ratios, strict=True)
        ]
        for row, weight in zip(scores, weights, strict=True)
    ]


def some_scored_note(num_scored: object, num_rows: int) -> str | None:
    """A note for the reader; None if all rows have scores.

    Args:
        num_scored: from `task_metrics`, or None.
    """
    if not isinstance(num_scored, int) or num_scored == num_rows:
        return None
    return f"{num_scored} of {num_rows} rows have a reference; the scores are over these"
