"""The page about a run, or about several side by side: report.html and its figures."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from distillens_plugin.reports import run_words as words
from distillens_plugin.reports.run_answers import answered_rows
from distillens_plugin.reports.run_evaluation import Evaluation, find_evaluations
from distillens_plugin.reports.run_records import Run, read_runs
from distillens_plugin.reports.run_sections import Section, sections_of
from distillens_plugin.storage import run_folder
from eval_harness import printable
from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import write_bytes, write_text
from eval_harness.shared.pages.figures import Figure
from eval_harness.shared.pages.foreign import refuse_foreign_page
from eval_harness.shared.pages.render import render

PAGE = "report.html"
_FIGURES = "figures"


def write_run_report(folder: Path) -> Path:
    """Writes RUN/report/report.html and RUN/report/figures/ from what the run's folder holds.

    Training calls it at its end, on the main process; `distillens report` while a run goes on.

    Returns:
        The page.
    Raises:
        DistillensError: the folder holds no run, or one of its files is damaged.
        RunFailure: a file cannot be written.
    """
    return write_report([folder])


def write_report(
    folders: Sequence[Path],
    *,
    output_dir: Path | None = None,
    evaluations: Sequence[Path] = (),
) -> Path:
    """Writes the page about one run or several.

    Args:
        output_dir: where report.html goes; default, for one run: its folder `report`.
        evaluations: results of eval-harness, beside those that are found in a run's folder.
    Raises:
        DistillensError: as `write_run_report`; or several runs and no `output_dir`.
    """
    output = _output(folders, output_dir)
    runs = read_runs(list(folders))
    found, notes = find_evaluations(runs, evaluations)
    sections = sections_of(runs, found)
    notes += [text for run in runs for text in _notes(run, runs)]
    for figure in _pictures(sections):
        write_bytes(output / _FIGURES / f"{figure.name}.png", figure.png)
        write_text(output / _FIGURES / f"{figure.name}.svg", figure.svg)
    page = output / PAGE
    html = render(
        "distillens_plugin",
        "reports/run_page.html.j2",
        title=_title(runs),
        about=[_about(run, runs) for run in runs],
        sections=sections,
        answered=answered_rows(runs),
        sources=_sources(found, output),
        notes=[printable(note) for note in notes],
        files=", ".join([run_folder.METRICS, run_folder.LENS, run_folder.ANSWERS]),
    )
    write_text(page, html)
    return page


def _pictures(sections: Sequence[Section]) -> list[Figure]:
    drawn = [figure for section in sections for figure in section.figures]
    return drawn + [found.figure() for section in sections for found in section.maps]


def _title(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    return f"Run {names[0]}" if len(names) == 1 else f"Runs {', '.join(names[:-1])} and {names[-1]}"


def _about(run: Run, runs: Sequence[Run]) -> str:
    text = printable(words.about(run))
    return f"{run.name}: {text}" if len(runs) > 1 else text


def _notes(run: Run, runs: Sequence[Run]) -> list[str]:
    return [f"{run.name}: {text}" if len(runs) > 1 else text for text in words.missing(run)]


def _sources(found: Sequence[Evaluation], output: Path) -> list[tuple[str, str]]:
    """Links to the results files: their names, and their places as seen from the page."""
    files = {entry.source: None for entry in found}
    return [
        (printable(file.name), quote(os.path.relpath(file, output).replace(os.sep, "/")))
        for file in files
    ]


def _output(folders: Sequence[Path], output_dir: Path | None) -> Path:
    if output_dir is None:
        if len(folders) > 1:
            raise DistillensError(
                f"--output_dir: missing, and a page about {len(folders)} runs belongs in none of "
                "their folders; name one for it"
            )
        return folders[0] / run_folder.REPORT
    for path in (output_dir, *output_dir.absolute().parents):
        if path.exists():
            if not path.is_dir():
                raise DistillensError(f"--output_dir: {path} is a file; name a folder")
            break
    refuse_foreign_page(output_dir / PAGE, "--output_dir")
    return output_dir
