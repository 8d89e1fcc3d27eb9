"""Compares systems row by row, and says what the numbers show and what they do not."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval_harness.comparison.notes import blank_notes, reference_notes, version_notes
from eval_harness.comparison.systems import System
from eval_harness.results.schema import NOT_AVAILABLE, Sample, metric_names
from eval_harness.scoring.row_scores import row_scores, scored_by
from eval_harness.scoring.task_metrics import task_metrics
from eval_harness.shared.statistics import Floats, PairedComparison, compare_paired, holm, row_means

ALPHA = 0.05
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Comparison:
    """Two systems on one task by one metric; differences are a - b, in the metric's unit (x 100).

    Attributes:
        adjusted_p: Holm over all comparisons of this metric that were made together.
        verdict: "<name> scores higher", or "no difference shown".
    """

    task: str
    metric: str
    a: str
    b: str
    paired: PairedComparison
    adjusted_p: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Flat, for --json."""
        return {
            "task": self.task,
            "metric": self.metric,
            "a": self.a,
            "b": self.b,
            **asdict(self.paired),
            "adjusted_p": self.adjusted_p,
            "verdict": self.verdict,
        }


def compare_systems(systems: Sequence[System], *, all_pairs: bool = False) -> list[Comparison]:
    """Compares each later system with the first one, or every pair.

    Holm's correction covers all pairs and tasks of a metric. The smallest detectable difference is
    at alpha / number of those comparisons, which is what a first rejection needs.

    Args:
        systems: at least two, from `load_systems`.
        all_pairs: compare every pair.
    """
    pairs = (
        list(itertools.combinations(systems, 2))
        if all_pairs
        else [(systems[0], other) for other in systems[1:]]
    )
    families: dict[str, list[tuple[str, System, System]]] = {}
    for task in systems[0].samples:
        common = [metric_names(system.samples[task]) for system in systems]
        for metric in common[0]:
            if all(metric in names for names in common):
                families.setdefault(metric, []).extend((task, a, b) for a, b in pairs)
    comparisons = []
    for metric, family in families.items():
        paired = [
            compare_paired(
                _rows(a.samples[task], metric),
                _rows(b.samples[task], metric),
                alpha=ALPHA / len(family),
            )
            for task, a, b in family
        ]
        adjusted = holm([result.p_value for result in paired])
        comparisons += [
            Comparison(task, metric, a.name, b.name, result, p, verdict(result, p, a.name, b.name))
            for (task, a, b), result, p in zip(family, paired, adjusted, strict=True)
        ]
    return comparisons


def verdict(result: PairedComparison, adjusted_p: float, name_a: str, name_b: str) -> str:
    """Names the higher system only if the test and the interval agree that there is one."""
    if adjusted_p >= ALPHA or result.low is None or result.high is None:
        return NO_DIFFERENCE
    if result.low > 0:
        return f"{name_a} scores higher"
    if result.high < 0:
        return f"{name_b} scores higher"
    return NO_DIFFERENCE


@dataclass(frozen=True)
class Comparisons:
    """Everything that `eval-harness compare` reports; as text, what it prints.

    Attributes:
        systems: by name, in order: "source", and "tasks" with each task's metrics.
        comparisons: for each metric and task.
        notes: what the reader should know, though it does not prevent a comparison.
    """

    systems: dict[str, dict[str, Any]]
    comparisons: list[Comparison]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for --json."""
        return {
            "alpha": ALPHA,
            "systems": self.systems,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "notes": self.notes,
        }

    def __str__(self) -> str:
        return "\n".join(comparison_lines(self.to_json())).rstrip()


def compare_loaded(systems: Sequence[System], *, all_pairs: bool = False) -> Comparisons:
    """Scores, comparisons and notes of systems from `load_systems`; see `compare_systems`."""
    tables: dict[str, dict[str, Any]] = {
        system.name: {
            "source": system.source,
            "tasks": {
                task: {
                    "num_rows": len(samples),
                    **_not_scored(system.metrics.get(task, {})),
                    **task_metrics(samples),
                }
                for task, samples in system.samples.items()
            },
        }
        for system in systems
    }
    return Comparisons(
        systems=tables,
        comparisons=compare_systems(systems, all_pairs=all_pairs),
        notes=[*version_notes(systems), *reference_notes(tables), *blank_notes(systems)],
    )


def comparison_lines(result: dict[str, Any]) -> list[str]:
    """The same as text, for a terminal."""
    lines = []
    for task in next(iter(result["systems"].values()))["tasks"]:
        tasks = {name: system["tasks"][task] for name, system in result["systems"].items()}
        lines.append(f"{task}, {next(iter(tasks.values()))['num_rows']} rows")
        lines += [f"  {score_line(name, metrics)}" for name, metrics in tasks.items()]
        for comparison in result["comparisons"]:
            if comparison["task"] == task:
                lines.append(f"  {difference_line(comparison)}")
        lines.append("")
    lines += [f"note: {note}" for note in result["notes"]]
    return lines


def scored_metrics(metrics: dict[str, Any]) -> list[str]:
    """The metrics that have an interval over rows, among the keys of `task_metrics`."""
    suffix = "_ci_low,none"
    return [key.removesuffix(suffix) for key in metrics if key.endswith(suffix)]


def _not_scored(metrics: dict[str, Any]) -> dict[str, Any]:
    """What a run wrote besides its scores, such as likelihoods; scores are computed again."""
    scored = tuple(f"{name}{mark}" for name in scored_metrics(metrics) for mark in ",_")
    return {key: value for key, value in metrics.items() if not key.startswith(scored)}


def decimals(*values: float | str | None) -> int:
    """Two, or four for lm-eval's metrics that are fractions: as many as show a difference."""
    largest = max(abs(value) for value in values if isinstance(value, int | float))
    return 4 if 0 < largest <= 1 else 2


def score_line(name: str, metrics: dict[str, Any]) -> str:
    """One system's scores with their intervals."""
    scores = []
    for metric in scored_metrics(metrics):
        low, high = metrics[f"{metric}_ci_low,none"], metrics[f"{metric}_ci_high,none"]
        value = metrics[f"{metric},none"]
        places = decimals(value, high)
        interval = f" [{low:.{places}f}, {high:.{places}f}]" if low != NOT_AVAILABLE else ""
        scores.append(f"{metric} {value:.{places}f}{interval}")
    return f"{name}: {', '.join(scores)}"


def difference_line(comparison: dict[str, Any]) -> str:
    """One comparison in words: difference, interval, p-values, reach and verdict."""
    low, high = comparison["low"], comparison["high"]
    places = decimals(comparison["difference"], low, high)
    interval = f" [{low:+.{places}f}, {high:+.{places}f}]" if low is not None else ""
    reach = comparison["smallest_detectable"]
    reach_text = f"; smallest detectable {reach:.{places}f}" if reach is not None else ""
    return (
        f"{comparison['metric']}, {comparison['a']} - {comparison['b']}: "
        f"{comparison['difference']:+.{places}f}{interval}, p {comparison['p_value']:.4f}, Holm "
        f"{comparison['adjusted_p']:.4f}{reach_text}: {comparison['verdict']}"
    )


def _rows(samples: Sequence[Sample], metric: str) -> Floats:
    return row_means(row_scores(scored_by(samples, metric), metric, paired=True))
