"""The sentences that the numbers support, and the cells of the tables as text."""

from collections.abc import Sequence

from distillens_plugin.study.report.results import COMPUTE, Results
from distillens_plugin.study.report.table import BETTER, WORSE, Cell, Difference, Metric, Table
from eval_harness import NO_DIFFERENCE, NOT_AVAILABLE

PRIMARY, UNICODE = "rougeL", "rougeL_unicode"


def primary_metrics(table: Table) -> list[Metric]:
    """What the sentences are about: ROUGE-L, and the losses."""
    return [m for m in table.metrics() if m.name in (PRIMARY, UNICODE) or m.is_loss]


def sentences(results: Results, budget: str) -> list[str]:
    """One sentence for each metric and reference: who is better, worse, or neither."""
    study, table = results.study, results.tables[budget]
    said = []
    for metric in primary_metrics(table):
        members = [d for d in table.differences if d.metric == metric]
        for reference in dict.fromkeys(d.reference for d in members):
            against = [d for d in members if d.reference == reference]
            parts = []
            for word, head in ((BETTER, "better"), (WORSE, "worse")):
                chosen = [d for d in against if d.verdict == word]
                if chosen:
                    parts.append(f"{head}: {_named(results, chosen)}")
            rest = [d for d in against if d.verdict == NO_DIFFERENCE]
            if rest:
                parts.append(f"{NO_DIFFERENCE}: {_named(results, rest)}")
            said.append(
                f"{metric.title}, against {study.label(reference)} at {budget}: {'; '.join(parts)}."
            )
    if budget == COMPUTE and not said:
        said.append("Nothing is compared at equal compute yet.")
    return said


def _named(results: Results, members: Sequence[Difference]) -> str:
    return ", ".join(
        f"{results.study.label(d.method)} ({signed(d.paired.difference, d.metric)}"
        + (f"; {d.reason}" if d.reason else "")
        + ")"
        for d in members
    )


def notes(results: Results) -> list[str]:
    """What a reader must know to judge the tables."""
    study = results.study
    said = [
        "Intervals are 95 % bootstrap intervals over rows. A row's score is its mean over training "
        "and sampling seeds. For the validation loss, intervals are over training seeds.",
        "Variation over rows predicts scores on other questions with these models; it says nothing "
        "about retraining. Variation over training seeds predicts the scores of retrained models.",
        "A difference is shown only if the sign-flip test over rows rejects after Holm's "
        "correction (over all differences of a metric, tasks together) and the bootstrap interval "
        "over training seeds excludes 0. The validation loss is tested over training seeds, since "
        "it has no rows.",
    ]
    if len(study.seeds) == 1:
        said.append("There is one training seed: nothing here predicts the scores of retraining.")
    searched = [f"{study.label(n)} {len(c.tried)}" for n, c in results.choices.items() if c.tried]
    if searched and study.tune is not None:
        said.append(
            "Number of settings that the search tried on the validation split (seeds "
            f"{', '.join(map(str, study.tune.seeds))}): {', '.join(searched)}. The final runs' "
            "validation loss is measured on the split that chose their settings; the benchmarks' "
            "rows were not used to choose."
        )
    said += results.reference_notes
    if results.missing:
        said.append(f"Missing so far: {', '.join(results.missing)}.")
    return said


def score(cell: Cell | None, metric: Metric) -> str:
    """Mean and interval, without a place to break."""
    if cell is None:
        return NOT_AVAILABLE
    mean = f"{cell.mean:.{metric.decimals}f}"
    if cell.interval is None:
        return mean
    low, high = (f"{end:.{metric.decimals}f}" for end in cell.interval)
    return f"{mean}\u00a0[{low},\u00a0{high}]"


def signed(value: float, metric: Metric) -> str:
    return f"{value:+.{metric.decimals}f}"


def difference_line(results: Results, difference: Difference) -> list[str]:
    """A row of the table of differences."""
    d, metric = difference, difference.metric
    study, paired = results.study, difference.paired

    def ends(low: float | None, high: float | None) -> str:
        if low is None or high is None:
            return NOT_AVAILABLE
        return f"[{signed(low, metric)},\u00a0{signed(high, metric)}]"

    reach = paired.smallest_detectable
    return [
        metric.title,
        f"{study.label(d.method)} - {study.label(d.reference)}",
        signed(paired.difference, metric),
        ends(paired.low, paired.high),
        ends(*(d.seed_interval or (None, None))),
        f"{paired.p_value:.4f}",
        f"{d.adjusted_p:.4f}",
        NOT_AVAILABLE if reach is None else f"{reach:.{metric.decimals}f}",
        d.verdict + (f" ({d.reason})" if d.reason else ""),
    ]


DIFFERENCE_HEADER = [
    "metric",
    "a - b",
    "difference",
    "95 % (rows)",
    "95 % (training seeds)",
    "p",
    "Holm",
    "detectable",
    "verdict for a",
]
