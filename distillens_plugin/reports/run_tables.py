"""Tables about runs: what each reached, the settings that differ, evaluation, chosen layers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillens_plugin.reports import run_words as words
from distillens_plugin.reports.run_evaluation import Evaluation
from distillens_plugin.reports.run_records import VALIDATION_LOSS, Run
from eval_harness import printable
from eval_harness.shared.pages.tables import Grid
from eval_harness.shared.shortened import shortened

_NONE = "-"
# Where a run keeps what it writes says nothing about what it trains.
_NO_SETTING = ("output_dir",)
_MOST_SETTINGS = 40


def results_grid(runs: Sequence[Run]) -> Grid:
    """What each run reached and took; a column for each run."""
    rows = {
        "seed": [whole(words.seed_of(run)) for run in runs],
        "optimiser steps": [
            whole(run.last_step if run.summary is None else run.summary.num_steps) for run in runs
        ],
        "best at step": [whole(_best(run, "step")) for run in runs],
        f"validation loss of the best ({words.LOSS_UNIT})": [
            decimal(_best(run, VALIDATION_LOSS), 4) for run in runs
        ],
    }
    for name in _scores(runs):
        rows[f"{name} of the best"] = [decimal(_best(run, name), 4) for run in runs]
    for term in {term: None for run in runs for term in run.terms}:
        rows[f"{term}, last (training)"] = [decimal(_last(run, term), 4) for run in runs]
    summaries = [run.summary for run in runs]
    rows["training time (s)"] = [decimal(s and s.train_seconds, 1) for s in summaries]
    rows["whole run (s)"] = [decimal(s and s.seconds, 1) for s in summaries]
    rows["tokens a second"] = [decimal(_last(run, "tokens_per_s"), 0) for run in runs]
    rows["peak memory (MiB)"] = [
        decimal(None if peak is None else peak / 2**20, 0)
        for peak in (_last(run, "peak_memory_bytes") for run in runs)
    ]
    rows["processes"] = [whole(None if s is None else s.num_processes) for s in summaries]
    rows["measuring for this report (s)"] = [_measuring(run) for run in runs]
    shown = {name: cells for name, cells in rows.items() if any(cell != _NONE for cell in cells)}
    return Grid(
        title="Results and cost",
        header=["", *([run.name for run in runs] if len(runs) > 1 else ["this run"])],
        rows=[[name, *cells] for name, cells in shown.items()],
        caption="What was reached, and what it took; a dash is what a run has not recorded.",
    )


def settings_grid(runs: Sequence[Run]) -> Grid | None:
    """The recipe keys in which several runs differ; None for one run."""
    if len(runs) < 2:
        return None
    settings = [dict(_flat(run.recipe, "")) for run in runs]
    keys = {key: None for found in settings for key in found if key not in _NO_SETTING}
    differing = [key for key in keys if len({_json(found.get(key)) for found in settings}) > 1]
    rows = [
        [text(key), *(text(_json(found[key])) if key in found else _NONE for found in settings)]
        for key in differing[:_MOST_SETTINGS]
    ]
    left = len(differing) - len(rows)
    caption = "Every other key of the recipes is the same."
    if left > 0:
        caption = f"{left} more keys differ; compare the folders' recipe.yaml."
    if not rows:
        rows, caption = [["none", *("" for _ in runs)]], "The runs have the same recipe."
    return Grid(
        title="Settings that differ",
        header=["recipe key", *(run.name for run in runs)],
        rows=rows,
        caption=caption,
    )


def evaluation_grid(found: Sequence[Evaluation]) -> Grid | None:
    """Scores of the runs' models by eval-harness; None where nothing was evaluated."""
    if not found:
        return None
    rows = []
    for entry in found:
        model = f"{entry.model}, since changed" if entry.changed else entry.model
        for metric, (value, error) in entry.scores.items():
            rows.append(
                [
                    *(text(part) for part in (entry.run, model, entry.task, entry.protocol)),
                    text(metric),
                    decimal(value, 2),
                    decimal(error, 2),
                    f"{entry.num_rows:,}",
                ]
            )
    return Grid(
        title="Evaluation",
        header=["run", "model", "task", "protocol", "metric", "score", "standard error", "rows"],
        rows=rows,
        caption="Scores are x 100, losses in nats per token; eval-harness compare says whether "
        "two of them differ by more than chance.",
    )


def _measuring(run: Run) -> str:
    if run.summary is None or run.summary.report_seconds is None:
        return _NONE
    share = run.summary.report_share
    of = "" if share is None else f" ({share * 100:.1f} %)"
    return f"{run.summary.report_seconds:.1f}{of}"


def _scores(runs: Sequence[Run]) -> list[str]:
    names = {name: None for run in runs for record in run.validation for name in record}
    known = ("step", "epoch", VALIDATION_LOSS)
    return [name for name in names if name not in known and name.count("/") < 2]


def _best(run: Run, name: str) -> float | None:
    best = words.best_validation(run)
    return None if best is None else best.get(name)


def _last(run: Run, name: str) -> float | None:
    values = run.series(name)[1]
    return values[-1] if values else None


def _flat(values: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Nested settings as paths and values; lists stay whole."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, values


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def text(content: str) -> str:
    """Text of any length and kind as a cell of a table."""
    return printable(shortened(content, 120))


def whole(number: float | None) -> str:
    return _NONE if number is None else f"{int(number):,}"


def decimal(number: Any, decimals: int) -> str:
    return _NONE if number is None else f"{number:,.{decimals}f}"
