"""The numbers of a study: scores, intervals, paired differences, and what they support.

Statistics are eval_harness's, over two units. Rows: a method's score on a row is the mean over its
training and sampling seeds; rows are resampled and sign-flipped. Variation over rows predicts
scores on other questions with these models; it says nothing about retraining. Training seeds: one
score for each; their variation predicts the scores of retrained models. A difference counts as
shown if the test over rows shows it after Holm's correction and the interval over seeds agrees.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distillens_plugin.study.evaluation import NLL, RowScores
from eval_harness import ALPHA, METRICS, NO_DIFFERENCE, verdict
from eval_harness.errors import DistillensError
from eval_harness.shared.statistics import (
    Floats,
    PairedComparison,
    bootstrap_interval,
    compare_paired,
    holm,
    smallest_detectable_difference,
)

BETTER, WORSE = "better", "worse"
_VALIDATION = "validation"


@dataclass(frozen=True, order=True)
class Metric:
    """One column.

    Attributes:
        task: a benchmark, or "validation".
        protocol: of eval_harness; "" for the validation loss.
    """

    task: str
    protocol: str
    name: str

    @property
    def is_loss(self) -> bool:
        return self.name == NLL

    @property
    def is_validation(self) -> bool:
        return self.task == _VALIDATION

    @property
    def title(self) -> str:
        """For a table's head."""
        if self.is_validation:
            return "validation NLL"
        if self.is_loss:
            return f"{self.task} NLL of the references"
        title = METRICS[self.name].title if self.name in METRICS else self.name
        return f"{self.task} {title} ({self.protocol})"

    @property
    def decimals(self) -> int:
        return 4 if self.is_loss else 2


VALIDATION_NLL = Metric(_VALIDATION, "", NLL)


@dataclass(frozen=True)
class MethodScores:
    """What was measured of one method.

    Attributes:
        rows: metric -> training seed -> scores of the rows.
        validation: training seed -> validation loss.
    """

    rows: Mapping[Metric, Mapping[int, RowScores]]
    validation: Mapping[int, float]

    def metrics(self) -> list[Metric]:
        return [*self.rows, *([VALIDATION_NLL] if self.validation else [])]


@dataclass(frozen=True)
class Cell:
    """A method's score: its mean, 95 % interval over rows (over seeds for the validation loss), and
    the score of each training seed.
    """

    mean: float
    interval: tuple[float, float] | None
    by_seed: dict[int, float]
    num_rows: int | None

    @property
    def seed_deviation(self) -> float | None:
        """Standard deviation of the training seeds' scores; None for one seed."""
        values = list(self.by_seed.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A method minus a reference, on the training seeds that both have.

    Attributes:
        paired: over rows; over seeds for the validation loss.
        seed_interval: of the difference, training seeds resampled; None with fewer than 2.
        verdict: better, worse, or "no difference shown", for the method.
        reason: why nothing is shown where the rows alone would show something, or what a verdict
            lacks; else "".
    """

    method: str
    reference: str
    metric: Metric
    paired: PairedComparison
    seeds: tuple[int, ...]
    seed_interval: tuple[float, float] | None
    adjusted_p: float
    verdict: str
    reason: str = ""


@dataclass
class Table:
    """All cells and differences of one budget."""

    cells: dict[str, dict[Metric, Cell]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def metrics(self) -> list[Metric]:
        """Every metric that any method has, in the order they were found."""
        return list(dict.fromkeys(metric for cells in self.cells.values() for metric in cells))


def make_table(
    scores: Mapping[str, MethodScores], references: Mapping[str, Sequence[str]]
) -> Table:
    """Cells of all methods and their differences to their references.

    Holm's correction is over all differences of a metric name under a protocol, tasks together.

    Args:
        scores: by method.
        references: by method: the methods it is compared with; those without scores are left out.
            Of two that name each other the later one is compared with the earlier, once.
    Raises:
        DistillensError: runs answered different rows.
    """
    table = Table()
    for name, method in scores.items():
        table.cells[name] = {metric: _cell(method, metric) for metric in method.metrics()}
    families: dict[tuple[bool, str, str], list[tuple[Difference, Floats]]] = {}
    order = list(scores)
    for name, method in scores.items():
        for reference in references.get(name, []):
            # a - b and b - a are one comparison; twice it would cost the others power under Holm.
            mirrored = name in references.get(reference, [])
            if reference not in scores or (mirrored and order.index(name) < order.index(reference)):
                continue
            for metric in method.metrics():
                found = _difference(name, method, reference, scores[reference], metric)
                if found is not None:
                    family = (metric.is_validation, metric.protocol, metric.name)
                    families.setdefault(family, []).append(found)
    for members in families.values():
        table.differences += _judged(members)
    return table


def _cell(scores: MethodScores, metric: Metric) -> Cell:
    if metric.is_validation:
        values = np.array(list(scores.validation.values()))
        interval = bootstrap_interval(values)
        return Cell(float(values.mean()), interval, dict(scores.validation), None)
    by_seed = scores.rows[metric]
    rows = _mean_rows(by_seed, by_seed, metric)
    seeds = {seed: float(found.values.mean()) for seed, found in by_seed.items()}
    # Rows that all score the same do not show how they would vary.
    interval = bootstrap_interval(rows) if np.ptp(rows) > 0 else None
    return Cell(float(rows.mean()), interval, seeds, len(rows))


def _difference(
    name: str, method: MethodScores, reference: str, other: MethodScores, metric: Metric
) -> tuple[Difference, Floats] | None:
    """The difference without a verdict yet, and the numbers [N] whose mean it is."""
    if metric.is_validation:
        seeds = tuple(seed for seed in method.validation if seed in other.validation)
        if not seeds:
            return None
        ours = np.array([method.validation[seed] for seed in seeds])
        theirs = np.array([other.validation[seed] for seed in seeds])
        by_seed = ours - theirs
    else:
        mine, yours = method.rows[metric], other.rows.get(metric, {})
        seeds = tuple(seed for seed in mine if seed in yours)
        if not seeds:
            return None
        ours, theirs = (_mean_rows(rows, seeds, metric, paired=True) for rows in (mine, yours))
        if mine[seeds[0]].ids != yours[seeds[0]].ids:
            raise DistillensError(
                f"{metric.title}: {name} and {reference} answered different rows; evaluate them "
                "again with --overwrite"
            )
        by_seed = np.array([mine[s].values.mean() - yours[s].values.mean() for s in seeds])
    paired = compare_paired(ours, theirs)
    interval = bootstrap_interval(by_seed)
    found = Difference(name, reference, metric, paired, seeds, interval, 1.0, NO_DIFFERENCE)
    return found, ours - theirs


def _mean_rows(
    by_seed: Mapping[int, RowScores], seeds: Iterable[int], metric: Metric, *, paired: bool = False
) -> Floats:
    """[N] means over training seeds; to be subtracted from another method's if `paired`."""
    chosen = [by_seed[seed] for seed in seeds]
    if any(found.ids != chosen[0].ids for found in chosen):
        raise DistillensError(
            f"{metric.title}: the seeds of a method answered different rows; evaluate them again "
            "with --overwrite"
        )
    return np.mean([found.paired if paired else found.values for found in chosen], axis=0)


def _judged(members: Sequence[tuple[Difference, Floats]]) -> list[Difference]:
    """With Holm's p and a verdict; the smallest detectable difference is a first rejection's."""
    adjusted = holm([member.paired.p_value for member, _ in members])
    judged = []
    for (member, differences), p in zip(members, adjusted, strict=True):
        reach = smallest_detectable_difference(differences, alpha=ALPHA / len(members))
        paired = replace(member.paired, smallest_detectable=reach)
        judged.append(_judge(replace(member, paired=paired), p))
    return judged


def _judge(member: Difference, adjusted_p: float) -> Difference:
    found = verdict(member.paired, adjusted_p, "method", "reference")
    shown, reason = NO_DIFFERENCE, ""
    if found != NO_DIFFERENCE:
        higher = found.startswith("method")
        interval = member.seed_interval
        agree = interval is None or (interval[0] > 0 if higher else interval[1] < 0)
        if agree:
            shown = WORSE if higher == member.metric.is_loss else BETTER
            reason = "" if interval is not None else "from one training seed"
        else:
            reason = "the rows show one, but the interval over training seeds does not exclude 0"
    elif member.metric.is_validation and 2.0 ** (1 - len(member.seeds)) >= ALPHA:
        count = len(member.seeds)
        reason = (
            f"{count} seed{'s' if count > 1 else ''} cannot show one: the smallest possible p is "
            f"{min(1.0, 2.0 ** (1 - len(member.seeds))):.4f}"
        )
    return replace(member, adjusted_p=adjusted_p, verdict=shown, reason=reason)
