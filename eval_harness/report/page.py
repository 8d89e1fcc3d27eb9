"""One self-contained HTML page and one Markdown file about a set of systems."""

import base64
import importlib.resources
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval_harness.comparison.compare import NO_DIFFERENCE, compare_loaded, decimals, scored_metrics
from eval_harness.comparison.systems import System
from eval_harness.report.plots import plot_length, plot_scores, require_matplotlib
from eval_harness.report.rows import ShownRow, primary_metric, printable, rows_that_differ
from eval_harness.results.schema import NOT_AVAILABLE, Sample
from eval_harness.scoring.row_scores import scored_by
from eval_harness.shared.files.atomic import check_writable, write_bytes, write_text
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


@dataclass(frozen=True)
class Plot:
    """A PNG with its file name (for Markdown) and description."""

    name: str
    alt: str
    png: bytes

    @property
    def data_uri(self) -> str:
        """The picture as a data URI, so that the page needs no other file."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


@dataclass(frozen=True)
class TaskSection:
    """What the report says about one task; every text is ready to show."""

    name: str
    num_rows: int
    primary: str
    header: list[str]
    table: list[list[str]]
    comparisons: list[dict[str, Any]]
    plots: list[Plot]
    rows: list[ShownRow]


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
        DistillensError: matplotlib is missing, or the folder cannot be written.
    """
    require_matplotlib()
    check_writable(output_path)
    folder = Path(output_path)
    result = compare_loaded(systems, all_pairs=all_pairs).to_json()
    sections = [_section(systems, task, result, num_rows) for task in systems[0].samples]
    notes = [printable(note) for note in result["notes"]]
    for plot in (plot for section in sections for plot in section.plots):
        write_bytes(folder / "plots" / plot.name, plot.png)
    page, markdown = folder / "report.html", folder / "report.md"
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
) -> list[Plot]:
    names = [printable(name) for name in metrics]
    title = f"{printable(task)}: {printable(primary)}"
    intervals = [
        None
        if m[f"{primary}_ci_low,none"] == NOT_AVAILABLE
        else (m[f"{primary}_ci_low,none"], m[f"{primary}_ci_high,none"])
        for m in metrics.values()
    ]
    means = [m[f"{primary},none"] for m in metrics.values()]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", task)
    return [
        Plot(
            f"{stem}_scores.png",
            f"{title}, scores with intervals",
            plot_scores(title, names, means, intervals),
        ),
        Plot(
            f"{stem}_length.png",
            f"{title} of each row against the length of its answer",
            plot_length(f"{title} against length", names, lengths, scores),
        ),
    ]


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
    import jinja2

    source = importlib.resources.files("eval_harness").joinpath("report/page.html.j2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(source.read_text(encoding="utf-8"))
    return template.render(
        names=[printable(system.name) for system in systems],
        sections=sections,
        notes=notes,
        fingerprints=_fingerprints(systems),
    )


def _fingerprints(systems: Sequence[System]) -> list[dict[str, str]]:
    return [
        {
            "system": printable(system.name),
            "task": printable(task),
            "digest": fingerprint.digest(),
            "protocol": printable(_settings(fingerprint.protocol)),
            "model": printable(_settings(fingerprint.model)),
            "versions": printable(_settings(fingerprint.versions)),
        }
        for system in systems
        for task, fingerprint in system.fingerprints.items()
    ]


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _markdown(sections: list[TaskSection], notes: list[str]) -> str:
    lines = ["# Evaluation", ""]
    for section in sections:
        lines += [f"## {_cell(section.name)}", "", f"{section.num_rows} rows.", ""]
        lines += _markdown_table(section.header, section.table)
        if section.comparisons:
            columns = ("metric", "pair", "difference", "interval", "p", "adjusted", "reach")
            header = ["metric", "a - b", "difference", "95 %", "p", "Holm", "detectable", "verdict"]
            rows = [[line[key] for key in (*columns, "verdict")] for line in section.comparisons]
            lines += ["", *_markdown_table(header, rows)]
        lines += [""]
        for plot in section.plots:
            lines += [f"![{_cell(plot.alt)}](plots/{plot.name})", ""]
    lines += [f"- {_cell(note)}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines]


def _cell(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = re.sub(r"([\\`*_|<>\[\]#$~])", r"\\\1", " ".join(text.split()))
    return "---" if text == "---" else escaped
