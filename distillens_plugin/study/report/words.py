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
    table = results.tables[budget]
    said = []
    for metric in primary_metrics(table):
        members = [d for d in table.differences if d.metric == metric]
        for reference in dict.fromkeys(d.reference for d in members):
            against = [d for d in members if d.reference == reference]
            parts = []
            for word, head in ((BETTER, "better"), (WORSE, "worse")):
                chosen = [d for d in against if d.verdict == word]
                if chosen:
                    parts.append(f"{head}: {_named(results, budget, chosen)}")
            rest = [d for d in against if d.verdict == NO_DIFFERENCE]
            if rest:
                parts.append(f"{NO_DIFFERENCE}: {_named(results, budget, rest)}")
            other = results.label(reference, budget)
            said.append(f"{metric.title}, against {other} at {budget}: {'; '.join(parts)}.")
    if budget == COMPUTE and not said:
        said.append("Nothing is compared at equal compute yet.")
    return said


def _named(results: Results, budget: str, members: Sequence[Difference]) -> str:
    return ", ".join(
        f"{results.label(d.method, budget)} ({signed(d.paired.difference, d.metric)}"
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
        "correction (over all differences of a metric under one protocol and budget, tasks "
        "together) and the bootstrap interval over training seeds excludes 0 (with one seed in "
        "common there is none, and the verdict says so). The validation loss is tested over "
        "training seeds, since it has no rows.",
    ]
    if results.time_shares:
        said.append(
            "At equal compute, methods with a share of the time kept their final runs: they "
            "trained for that part of the clock's time, not for all of it."
        )
    if len(study.seeds) == 1:
        said.append("There is one training seed: nothing here predicts the scores of retraining.")
    tried = {n: sum(not t.missing for t in c.tried) for n, c in results.choices.items()}
    searched = [f"{study.label(name)} {count}" for name, count in tried.items() if count]
    if searched and study.tune is not None:
        said.append(
            "Number of settings that the search tried on the validation split (seeds "
            f"{', '.join(map(str, study.tune.seeds))}): {', '.join(searched)}. The final runs' "
            "validation loss is measured on the split that chose their settings."
        )
    said += results.reference_notes
    if results.missing:
        said.append(f"Missing so far: {', '.join(results.missing)}.")
    return said


def score(cell: Cell | None, metric: Metric, *, num_seeds: int) -> str:
    """Mean and interval, without a place to break, and the training seeds if some are missing.

    Args:
        num_seeds: of the study.
    """
    if cell is None:
        return NOT_AVAILABLE
    text = f"{cell.mean:.{metric.decimals}f}"
    if cell.interval is not None:
        low, high = (f"{end:.{metric.decimals}f}" for end in cell.interval)
        text += f"\u00a0[{low},\u00a0{high}]"
    if len(cell.by_seed) < num_seeds:
        text += f" ({len(cell.by_seed)} of {num_seeds} seeds)"
    return text


def signed(value: float, metric: Metric) -> str:
    return f"{value:+.{metric.decimals}f}"


def difference_line(results: Results, budget: str, difference: Difference) -> list[str]:
    """A row of the table of differences."""
    d, metric = difference, difference.metric
    paired = difference.paired

    def ends(low: float | None, high: float | None) -> str:
        if low is None or high is None:
            return NOT_AVAILABLE
        return f"[{signed(low, metric)},\u00a0{signed(high, metric)}]"

    reach = paired.smallest_detectable
    return [
        metric.title,
        f"{results.label(d.method, budget)} - {results.label(d.reference, budget)}",
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
