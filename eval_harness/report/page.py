"""One self-contained HTML page and one Markdown file about a set of systems."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval_harness.comparison.compare import NO_DIFFERENCE, compare_loaded, decimals, scored_metrics
from eval_harness.comparison.systems import System
from eval_harness.report.place import MARKDOWN, PAGE, TITLE, check_place
from eval_harness.report.plots import plot_length, plot_scores
from eval_harness.report.rows import ShownRow, primary_metric, printable, rows_that_differ
from eval_harness.results.schema import NOT_AVAILABLE, Sample
from eval_harness.scoring.row_scores import scored_by
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import check_writable, write_bytes, write_text
from eval_harness.shared.pages.figures import Figure, require_matplotlib
from eval_harness.shared.pages.foreign import MARKDOWN_MARK
from eval_harness.shared.pages.markdown import cell, lines_of
from eval_harness.shared.pages.render import render
from eval_harness.shared.pages.tables import Grid
from eval_harness.shared.statistics import Floats, correlation, row_means

# Metric -> column title and decimals; a column is shown if any system has the metric.
_COLUMNS = {
    "length_words": ("words", 1),
    "length_tokens": ("tokens", 1),
    "empty": ("empty %", 1),
    "cut_off": ("truncated %", 1),
    "distinct_4": ("distinct-4", 1),
    "nll": ("nats per reference token", 3),
    "perplexity": ("perplexity", 2),
}
# What is told of a difference -> column title.
_COMPARED = {
    "metric": "metric",
    "pair": "a - b",
    "difference": "difference",
    "interval": "95 %",
    "p": "p",
    "adjusted": "Holm",
    "reach": "detectable",
    "verdict": "verdict",
}


@dataclass(frozen=True)
class TaskSection:
    """What the report says about one task; every text is ready to show."""

    name: str
    num_rows: int
    primary: str
    header: list[str]
    table: list[list[str]]
    comparisons: list[dict[str, Any]]
    plots: list[Figure]
    rows: list[ShownRow]

    @property
    def grids(self) -> list[Grid]:
        """The scores, and where there are several systems their differences."""
        grids = [Grid("Scores", self.header, self.table)]
        if self.comparisons:
            lines = [[line[key] for key in _COMPARED] for line in self.comparisons]
            shown = tuple(i for i, line in enumerate(self.comparisons) if line["shown"])
            grids.append(Grid("Differences", list(_COMPARED.values()), lines, shown))
        return grids


def write_report(
    systems: Sequence[System],
    output_path: str | os.PathLike[str],
    *,
    all_pairs: bool = False,
    num_rows: int = 10,
) -> tuple[Path, Path]:
    """Writes report.html, report.md and plots/*.png (which only the Markdown file needs).

    Args:
        systems: one or more, from `load_systems`.
        output_path: a folder; made if missing.
        all_pairs: compare every pair, not only with the first.
        num_rows: rows shown in full for each task.
    Returns:
        Paths of the HTML page and the Markdown file.
    Raises:
        DistillensError: matplotlib is missing, the folder cannot be written, or it holds a
            report.html or report.md of somebody else.
    """
    require_matplotlib()
    check_writable(output_path)
    folder = Path(output_path)
    check_place(folder)
    result = compare_loaded(systems, all_pairs=all_pairs).to_json()
    sections = [_section(systems, task, result, num_rows) for task in systems[0].samples]
    notes = [printable(note) for note in result["notes"]]
    for plot in (plot for section in sections for plot in section.plots):
        write_bytes(folder / "plots" / f"{plot.name}.png", plot.png)
    page, markdown = folder / PAGE, folder / MARKDOWN
    write_text(markdown, _markdown(sections, notes))
    write_text(page, _html(systems, sections, notes))
    return page, markdown


def _section(
    systems: Sequence[System], task: str, result: dict[str, Any], num_rows: int
) -> TaskSection:
    metrics = {name: system["tasks"][task] for name, system in result["systems"].items()}
    scored = [
        name
        for name in scored_metrics(next(iter(metrics.values())))
        if all(f"{name},none" in values for values in metrics.values())
    ]
    primary = primary_metric(scored, next(iter(metrics.values())))
    known = [key for key in _COLUMNS if any(f"{key},none" in m for m in metrics.values())]
    scores = [
        row_means([sample.scores[primary] for sample in scored_by(system.samples[task], primary)])
        for system in systems
    ]
    lengths = [_words(scored_by(system.samples[task], primary)) for system in systems]
    is_choice = systems[0].samples[task][0].is_choice
    table = []
    for index, values in enumerate(metrics.values()):
        line = [printable(systems[index].name)]
        for name in scored:
            line += [score_with_interval(values, name), _seeds(values, name)]
        line += [
            _number(values.get(f"{key},none", NOT_AVAILABLE), _COLUMNS[key][1]) for key in known
        ]
        related = correlation(lengths[index], scores[index])
        line.append("N/A" if related is None else f"{related:+.2f}")
        table.append(line)
    header = ["system"]
    for name in scored:
        header += [f"{name} [95 %]", f"{name} by seed (sampling noise)"]
    header += [_COLUMNS[key][0] for key in known] + [f"{primary} ~ words"]
    if is_choice:
        header, table = header[:-1], [line[:-1] for line in table]
    plots = _plots(task, primary, metrics, scores, lengths)
    return TaskSection(
        name=printable(task),
        num_rows=len(systems[0].samples[task]),
        primary=printable(primary),
        header=header,
        table=table,
        comparisons=[
            _comparison(comparison)
            for comparison in result["comparisons"]
            if comparison["task"] == task
        ],
        plots=plots[:1] if is_choice else plots,
        rows=rows_that_differ(systems, task, metric=primary, num_rows=num_rows),
    )


def _plots(
    task: str,
    primary: str,
    metrics: dict[str, dict[str, Any]],
    scores: list[Any],
    lengths: list[Any],
) -> list[Figure]:
    names = [printable(name) for name in metrics]
    title = f"{printable(task)}: {printable(primary)}"
    intervals = [
        None
        if m[f"{primary}_ci_low,none"] == NOT_AVAILABLE
        else (m[f"{primary}_ci_low,none"], m[f"{primary}_ci_high,none"])
        for m in metrics.values()
    ]
    means = [m[f"{primary},none"] for m in metrics.values()]
    stem = _stem(task)
    return [
        plot_scores(stem, title, names, means, intervals),
        plot_length(stem, title, names, lengths, scores),
    ]


def _stem(task: str) -> str:
    """The task's name for files; what it loses stays in a digest, so that no two are one."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", task)
    return plain if plain == task else f"{plain}-{digest(task)[:8]}"


def score_with_interval(values: dict[str, Any], metric: str) -> str:
    """ "33.64 [29.95, 37.39]" with no-break spaces, or the score alone if it has no interval."""
    low, high = values[f"{metric}_ci_low,none"], values[f"{metric}_ci_high,none"]
    value = values[f"{metric},none"]
    places = decimals(value, high)
    score = f"{value:.{places}f}"
    if low == NOT_AVAILABLE:
        return score
    return f"{score}\u00a0[{low:.{places}f},\u00a0{high:.{places}f}]"


def _seeds(values: dict[str, Any], metric: str) -> str:
    deviation = values[f"{metric}_seed_sd,none"]
    if deviation == NOT_AVAILABLE:
        return "one seed"
    places = decimals(*values[f"{metric}_per_seed,none"])
    scores = ", ".join(f"{score:.{places}f}" for score in values[f"{metric}_per_seed,none"])
    return f"{scores} (sd {deviation:.{places}f})"


def _comparison(comparison: dict[str, Any]) -> dict[str, Any]:
    """One line of the table of comparisons, as text."""
    low, high, reach = (comparison[key] for key in ("low", "high", "smallest_detectable"))
    places = decimals(comparison["difference"], low, high)
    return {
        "metric": comparison["metric"],
        "pair": printable(f"{comparison['a']} - {comparison['b']}"),
        "difference": f"{comparison['difference']:+.{places}f}",
        "interval": "N/A" if low is None else f"[{low:+.{places}f},\u00a0{high:+.{places}f}]",
        "p": f"{comparison['p_value']:.4f}",
        "adjusted": f"{comparison['adjusted_p']:.4f}",
        "reach": "N/A" if reach is None else f"{reach:.{places}f}",
        "verdict": printable(comparison["verdict"]),
        "shown": comparison["verdict"] != NO_DIFFERENCE,
        "sentence": printable(_sentence(comparison)),
    }


def _sentence(comparison: dict[str, Any]) -> str:
    """What a comparison shows, for the top of the page."""
    reach = comparison["smallest_detectable"]
    places = decimals(comparison["difference"], comparison["low"], comparison["high"])
    difference = f"{comparison['difference']:+.{places}f}"
    if comparison["verdict"] != NO_DIFFERENCE:
        return f"{comparison['verdict']}: {comparison['a']} - {comparison['b']} is {difference}"
    needed = f"; these rows can show differences from about {reach:.{places - 1}f}" if reach else ""
    pair = f"{comparison['a']} and {comparison['b']}"
    return f"{NO_DIFFERENCE} between {pair} ({difference}{needed})"


def _words(samples: Sequence[Sample]) -> Floats:
    return np.array(
        [np.mean([len(text.split()) for text in sample.filtered_resps]) for sample in samples]
    )


def _number(value: object, decimals: int) -> str:
    return f"{value:.{decimals}f}" if isinstance(value, int | float) else NOT_AVAILABLE


def _html(systems: Sequence[System], sections: list[TaskSection], notes: list[str]) -> str:
    return render(
        "eval_harness",
        "report/page.html.j2",
        names=[printable(system.name) for system in systems],
        sections=sections,
        notes=notes,
        fingerprints=_fingerprints(systems),
    )


def _fingerprints(systems: Sequence[System]) -> Grid | None:
    rows = [
        [
            printable(system.name),
            printable(task),
            fingerprint.digest(),
            *(
                printable(_settings(part))
                for part in (fingerprint.protocol, fingerprint.model, fingerprint.versions)
            ),
        ]
        for system in systems
        for task, fingerprint in system.fingerprints.items()
    ]
    header = ["system", "task", "fingerprint", "protocol", "model", "versions"]
    caption = "What was run; two results with one fingerprint were made in the same way."
    return Grid("Fingerprints", header, rows, caption=caption) if rows else None


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _markdown(sections: list[TaskSection], notes: list[str]) -> str:
    lines = [MARKDOWN_MARK, "", TITLE, ""]
    for section in sections:
        lines += [f"## {cell(section.name)}", "", f"{section.num_rows} rows.", ""]
        for grid in section.grids:
            lines += [*lines_of(grid.header, grid.rows), ""]
        for plot in section.plots:
            lines += [f"![{cell(plot.title)}](plots/{plot.name}.png)", ""]
    lines += [f"- {cell(note)}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"
