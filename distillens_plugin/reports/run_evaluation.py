"""Results of eval-harness on a run's own models: found beside the run, or named by the user."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distillens_plugin.reports.run_records import Run
from distillens_plugin.storage import run_folder
from eval_harness import Results, TaskResult, load_results
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.identity import files_digest

# Where an evaluation lies beside its run: inside its folder, or as a study puts it.
_BESIDE = ("evaluation", "../evaluation")
_RESULTS = "results_*.json"


@dataclass(frozen=True)
class Evaluation:
    """The results of one task on one of a run's models.

    Attributes:
        model: `best` or `last`.
        changed: the model's files are no longer those that were evaluated.
        protocol: its name; `settings`, all of it.
        scores: metric -> (value, standard error or None), x 100 as eval-harness writes them.
        source: the results file.
        date: when the evaluation started, in seconds since the epoch.
    """

    run: str
    model: str
    changed: bool
    task: str
    protocol: str
    settings: str
    num_rows: int
    scores: dict[str, tuple[float, float | None]]
    source: Path
    date: float = 0.0


def find_evaluations(
    runs: Sequence[Run], named: Sequence[Path] = ()
) -> tuple[list[Evaluation], list[str]]:
    """All results whose model is a run's `best` or `last`: by its files' digest, else by its path.

    Args:
        named: results files or folders that are searched beside those of each run's own.
    Returns:
        The results, and a line for each file beside a run that eval-harness cannot read.
    Raises:
        DistillensError: a named path holds no results, or none of any of the runs' models.
    """
    names = (run_folder.BEST, run_folder.LAST)
    models = [_Model(run.name, name, run.folder / name) for run in runs for name in names]
    models = [model for model in models if model.path.is_dir()]
    beside = [(run.folder / place).resolve() for run in runs for place in _BESIDE]
    found: list[tuple[bool, Evaluation]] = []
    notes = []
    for path in named:
        of_path = list(_evaluations(_files(path), models))
        if not of_path:
            where = ", ".join(str(model.path) for model in models) or "no saved model"
            raise DistillensError(
                f"{path}: found no results of these runs' models ({where}); expected what "
                "eval-harness run wrote about one of them"
            )
        found += [(True, entry) for entry in of_path]
    for folder in beside:
        for file in sorted(folder.rglob(_RESULTS)) if folder.is_dir() else []:
            try:
                found += [(False, entry) for entry in _evaluations([file], models)]
            except DistillensError as error:
                # Nobody named it: another program's file there is no reason to fail.
                notes.append(f"not shown: {error}")
    return _shown(found), notes


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.rglob(_RESULTS)) if path.is_dir() else []
    if not files:
        raise DistillensError(
            f"{path}: holds no {_RESULTS}; expected a results file or output path of eval-harness"
        )
    return files


def _shown(found: Sequence[tuple[bool, Evaluation]]) -> list[Evaluation]:
    """Of results of the same thing one: of the model as it is, then named, then the newest.

    Args:
        found: whether the user named the file, and the result.
    """
    best: dict[tuple[str, ...], tuple[tuple[bool, bool, float], Evaluation]] = {}
    for is_named, entry in found:
        key = (entry.run, entry.model, entry.task, entry.settings)
        rank = (not entry.changed, is_named, entry.date)
        if key not in best or rank >= best[key][0]:
            best[key] = (rank, entry)
    return [entry for _, entry in best.values()]


@dataclass(frozen=True)
class _Model:
    run: str
    name: str
    path: Path

    @cached_property
    def digest(self) -> str:
        """Read from all weights, so only once there are results to hold it against."""
        return files_digest(self.path)


def _evaluations(files: Sequence[Path], models: Sequence[_Model]) -> Iterator[Evaluation]:
    for file in files:
        results = load_results(file, samples=False)
        for task in results.tasks.values():
            identity = task.fingerprint.model
            for model in models:
                same = model.digest in (identity.get("files"), identity.get("adapter"))
                if same or _is_at(results, model.path):
                    protocol = str(results.config.get("protocol") or "unnamed")
                    yield Evaluation(
                        run=model.run,
                        model=model.name,
                        changed=not same,
                        task=task.task,
                        protocol=protocol,
                        settings=json.dumps(task.fingerprint.protocol, sort_keys=True),
                        num_rows=task.num_effective,
                        scores=_scores(task),
                        source=file,
                        date=results.date,
                    )
                    break


def _is_at(results: Results, path: Path) -> bool:
    """Whether the evaluated model was named by this path, as seen from here."""
    names = results.model_name.split("+")
    return any(os.path.isdir(name) and os.path.samefile(name, path) for name in names)


def _scores(task: TaskResult) -> dict[str, tuple[float, float | None]]:
    """What has a standard error; the rest are counts and lengths."""
    scores: dict[str, tuple[float, float | None]] = {}
    for key, value in task.metrics.items():
        name, _, kind = key.partition(",")
        error_key = f"{name}_stderr,{kind}"
        if error_key in task.metrics and _is_number(value):
            error = task.metrics[error_key]
            scores[name] = (float(value), float(error) if _is_number(error) else None)
    return scores


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
