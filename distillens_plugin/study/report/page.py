"""The study's report: one HTML page, one Markdown file, one CSV, figures as PNG."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillens_plugin.study.compute import read_steps
from distillens_plugin.study.report import words
from distillens_plugin.study.report.csv_table import csv_table
from distillens_plugin.study.report.place import MARKDOWN, PAGE, TABLE, check_place
from distillens_plugin.study.report.results import COMPUTE, Results, collect
from distillens_plugin.study.report.table import Metric, Table
from distillens_plugin.study.runner import describe
from distillens_plugin.study.spec import Study
from eval_harness import NO_DIFFERENCE, printable
from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import write_bytes, write_text
from eval_harness.shared.pages import markdown
from eval_harness.shared.pages.figures import Figure, require_matplotlib
from eval_harness.shared.pages.foreign import MARKDOWN_MARK
from eval_harness.shared.pages.render import render
from eval_harness.shared.pages.tables import Grid

__all__ = ["require_matplotlib", "write_report"]

_FIGURES = "figures"


@dataclass(frozen=True)
class Section:
    """One budget."""

    title: str
    sentences: list[str]
    grids: list[Grid]
    figures: list[Figure]


def write_report(study: Study, folder: Path) -> list[Path]:
    """Writes report.html (all in one file), report.md, table.csv and figures/*.png.

    Raises:
        DistillensError: the study has no finished run yet, matplotlib is missing, or the folder
            has a report of something else.
        RunFailure: a file cannot be written.
    """
    require_matplotlib()
    check_place(folder)
    results = collect(study)
    if not any(table.cells for table in results.tables.values()):
        raise DistillensError(
            f"{folder}: found no finished run of {study.path}; run it, or look in log.txt of a "
            "run that failed"
        )
    sections = [_section(results, budget) for budget in results.tables]
    extra = [grid for grid in (_search_grid(results), _paper_grid(results)) if grid is not None]
    notes = words.notes(results)
    for section in sections:
        for figure in section.figures:
            write_bytes(folder / _FIGURES / f"{figure.name}.png", figure.png)
    page, text, table = (folder / name for name in (PAGE, MARKDOWN, TABLE))
    write_text(text, _markdown(study, sections, extra, notes))
    write_text(table, csv_table(results))
    write_text(page, _html(study, sections, extra, notes))
    return [page, text, table]


def _section(results: Results, budget: str) -> Section:
    return Section(
        title=budget.capitalize(),
        sentences=[printable(text) for text in words.sentences(results, budget)],
        grids=[
            *_score_grids(results, budget),
            _difference_grid(results, budget),
            _cost_grid(results, budget),
        ],
        figures=_figures(results, budget),
    )


def _score_grids(results: Results, budget: str) -> list[Grid]:
    """ROUGE-L and the losses first, the rest in a table of its own: both stay readable."""
    table = results.tables[budget]
    primary = words.primary_metrics(table)
    further = [metric for metric in table.metrics() if metric not in primary]
    grids = [_score_grid(results, budget, "Scores", primary)]
    return grids + ([_score_grid(results, budget, "Further scores", further)] if further else [])


def _score_grid(results: Results, budget: str, title: str, metrics: list[Metric]) -> Grid:
    header = ["method"]
    for metric in metrics:
        header += [f"{metric.title} [95 %]", "sd of training seeds"]
    rows = []
    for name, cells in results.tables[budget].cells.items():
        line = [printable(results.label(name, budget))]
        for metric in metrics:
            cell = cells.get(metric)
            deviation = cell.seed_deviation if cell is not None else None
            line += [
                words.score(cell, metric, num_seeds=len(results.study.seeds)),
                "N/A" if deviation is None else f"{deviation:.{metric.decimals}f}",
            ]
        rows.append(line)
    return Grid(title, header, rows)


def _difference_grid(results: Results, budget: str) -> Grid:
    table = results.tables[budget]
    rows = [words.difference_line(results, budget, d) for d in table.differences]
    marked = tuple(i for i, d in enumerate(table.differences) if d.verdict != NO_DIFFERENCE)
    cells = [[printable(cell) for cell in row] for row in rows]
    return Grid("Paired differences", words.DIFFERENCE_HEADER, cells, marked)


def _cost_grid(results: Results, budget: str) -> Grid:
    header = ["method", "runs", "steps", "s of training", "s in all", "peak MiB"]
    clock = results.study.budget.equal_compute
    paces = read_steps(results.study) if budget == COMPUTE else {}
    if paces and clock is not None:
        header.append(f"s per step (clock: {results.study.label(clock.clock)})")
    rows = []
    for name, cost in results.costs[budget].items():
        line = [
            printable(results.label(name, budget)),
            str(cost.num_runs),
            f"{cost.num_steps:g}",
            f"{cost.train_seconds:.1f}",
            f"{cost.seconds:.1f}",
            f"{cost.peak_bytes / 2**20:,.0f}",
        ]
        if paces:
            pace = paces.get(name)
            line.append(
                f"{pace['seconds_per_step']:.3f} ({pace['clock_seconds_per_step']:.3f})"
                if pace
                else f"as at {results.held}"
            )
        rows.append(line)
    return Grid("Time and memory", header, rows)


def _search_grid(results: Results) -> Grid | None:
    rows: list[list[str]] = []
    marked: list[int] = []
    for name, choice in results.choices.items():
        for entry in choice.tried:
            loss = "diverged" if entry.has_diverged else "missing"
            if entry.validation_nll is not None:
                loss = f"{entry.validation_nll:.4f}"
            if entry.settings == choice.settings:
                marked.append(len(rows))
            settings = printable(describe(entry.settings))
            rows.append([printable(results.study.label(name)), settings, loss])
    header = ["method", "settings", "validation NLL"]
    return Grid("Search (chosen: bold)", header, rows, tuple(marked)) if rows else None


def _paper_grid(results: Results) -> Grid | None:
    paper = results.study.paper
    if paper is None:
        return None
    rows: list[list[str]] = []
    for name, number in paper.scores.items():
        line = [printable(results.study.label(name)), f"{number:.2f}"]
        for table in results.tables.values():
            line.append(_mean_rouge(results.study, table, name))
        rows.append(line)
    if paper.teacher is not None:
        rows.append(["teacher", f"{paper.teacher:.2f}", *["" for _ in results.tables]])
    header = ["method", paper.source, *(f"here, {budget}" for budget in results.tables)]
    return Grid(f"Published numbers: {printable(paper.metric)}", header, rows)


def _mean_rouge(study: Study, table: Table, name: str) -> str:
    """Mean over the tasks under the study's first protocol; empty unless every task is there."""
    spec = study.evaluation
    if spec is None:
        return ""
    found = [
        cell.mean
        for metric, cell in table.cells.get(name, {}).items()
        if metric.name == words.PRIMARY and metric.protocol == spec.protocols[0]
    ]
    return f"{np.mean(found):.2f}" if len(found) == len(spec.tasks) else ""


def _figures(results: Results, budget: str) -> list[Figure]:
    from distillens_plugin.study.report import figures

    study, table = results.study, results.tables[budget]
    labels = {name: printable(results.label(name, budget)) for name in results.costs[budget]}
    stem = budget.replace(" ", "_")
    made = []
    for metric in words.primary_metrics(table):
        cells = {labels[n]: c[metric] for n, c in table.cells.items() if metric in c}
        unit = "nats per token" if metric.is_loss else "score x 100"
        axis = f"{unit}; line: 95 % interval, rings: training seeds"
        name = re.sub(r"[^A-Za-z0-9]+", "_", metric.title).strip("_")
        title = f"{metric.title} of each method, {budget}"
        made.append(figures.plot_seeds(f"{stem}_{name}", title, axis, cells))
    if budget != COMPUTE and results.curves:
        curves = {printable(study.label(name)): c for name, c in results.curves.items()}
        made.append(figures.plot_curves("curves", curves))
    costs = {labels[name]: cost for name, cost in results.costs[budget].items()}
    made.append(figures.plot_costs(f"{stem}_costs", f"Time and memory, {budget}", costs))
    return made


def _html(study: Study, sections: list[Section], extra: list[Grid], notes: list[str]) -> str:
    return render(
        "distillens_plugin",
        "study/report/page.html.j2",
        title=printable(study.title),
        about=_about(study),
        sections=sections,
        extra=extra,
        notes=[printable(note) for note in notes],
    )


def _about(study: Study) -> str:
    return printable(
        f"{study.path}: {len(study.methods)} methods, training seeds "
        f"{', '.join(map(str, study.seeds))}, recipe {study.recipe}"
    )


def _markdown(study: Study, sections: list[Section], extra: list[Grid], notes: list[str]) -> str:
    lines = [
        MARKDOWN_MARK,
        "",
        f"# {markdown.cell(printable(study.title))}",
        "",
        markdown.cell(_about(study)),
        "",
    ]
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [f"- {markdown.cell(text)}" for text in section.sentences] + [""]
        for grid in section.grids:
            lines += markdown.table(grid)
        for figure in section.figures:
            lines += [f"![{markdown.cell(figure.title)}]({_FIGURES}/{figure.name}.png)", ""]
    for grid in extra:
        lines += markdown.table(grid)
    lines += [f"- {markdown.cell(printable(note))}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"
