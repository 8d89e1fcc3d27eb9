"""The systems of a comparison: results folders of runs, or bare prediction files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_harness.comparison.lm_eval_names import apart_note, name_apart
from eval_harness.errors import DistillensError
from eval_harness.results.folder import load_results
from eval_harness.results.lm_eval_files import LmEvalTask, is_lm_eval, read_lm_eval
from eval_harness.results.schema import Fingerprint, Sample, TaskResult, metric_names
from eval_harness.scoring.score import (
    References,
    expected_metrics,
    named,
    read_predictions,
    read_references,
    score_samples,
)
from eval_harness.shared.differences import differences
from eval_harness.shared.files.typed_json import shown


@dataclass
class System:
    """One model's answers.

    Attributes:
        name: unique among the systems of a comparison.
        source: as the user named it.
        samples: by task, scored; the rows of all systems in the same order.
        fingerprints: by task; empty for prediction files, whose protocol is unknown.
        metrics: by task, as the run wrote them; empty for prediction files and for lm-eval's.
        lm_eval: by task, what lm-eval wrote about it; empty for other systems.
        configs: by task, its settings in the results; empty for prediction files and lm-eval's.
        notes: of a comparison's first system: tasks that are not compared, and why.
    """

    name: str
    source: str
    samples: dict[str, list[Sample]]
    fingerprints: dict[str, Fingerprint]
    metrics: dict[str, dict[str, Any]]
    lm_eval: dict[str, LmEvalTask] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load_systems(
    paths: Sequence[str | os.PathLike[str]],
    *,
    references: str | os.PathLike[str] | None = None,
    backend: str | None = None,
    metrics: Sequence[str] | None = (),
) -> list[System]:
    """Reads systems that can be compared: the same tasks, rows, protocol and data.

    Args:
        paths: results files or folders, ours or lm-eval's; with `references`, prediction files.
        references: the references of prediction files.
        backend: see `rouge.rouge_l`; used for answers without scores.
        metrics: to compute where a run did not, beside those of its benchmarks; None: no scores
            are needed.
    Returns:
        The systems in the order of `paths`, with the tasks and metrics that they all have.
    Raises:
        DistillensError: unreadable input, no common task or metric, samples that were not logged,
            rows or fingerprints that differ; names what differs.
    """
    if references is not None:
        expected = read_references(references)
        systems = [_from_predictions(path, expected, backend, metrics or ()) for path in paths]
    else:
        systems = [_from_results(path, backend, metrics) for path in paths]
    _make_names_unique(systems)
    _keep_common_tasks(systems)
    for system in systems[1:]:
        for task in system.samples:
            _check_fingerprints(task, systems[0], system)
            _check_rows(task, systems[0], system)
    if metrics is not None:
        _keep_comparable_tasks(systems)
    return systems


def _from_predictions(
    path: str | os.PathLike[str],
    references: References,
    backend: str | None,
    metrics: Sequence[str],
) -> System:
    texts = read_predictions(path, references)
    samples = [
        Sample(
            doc_id=index,
            doc=doc,
            target=targets,
            arguments={},
            resps=[text],
            filtered_resps=[text],
            seeds=[0],
        )
        for index, (doc, targets, text) in enumerate(
            zip(references.rows, references.texts, texts, strict=True)
        )
    ]
    score_samples(samples, backend=backend, metrics=metrics)
    task = "/".join(Path(references.path).parts[-2:])
    return System(Path(path).stem, os.fspath(path), {task: samples}, {}, {})


def _from_results(
    path: str | os.PathLike[str], backend: str | None, metrics: Sequence[str] | None
) -> System:
    if Path(path).is_file() and Path(path).suffix == ".jsonl":
        raise DistillensError(
            f"{os.fspath(path)}: found a .jsonl file, expected a results folder; for prediction "
            "files give --references"
        )
    if is_lm_eval(path):
        found = read_lm_eval(path, needs_scores=metrics is not None)
        for lm_eval_task in found.tasks.values():
            name_apart(lm_eval_task)
        return System(
            name=found.model_name,
            source=os.fspath(path),
            samples={name: task.samples for name, task in found.tasks.items()},
            fingerprints={},
            metrics={},
            lm_eval=found.tasks,
        )
    results = load_results(path)
    if not results.tasks:
        raise DistillensError(
            f"{os.fspath(path)}: no task in it, expected at least one; run the evaluation again"
        )
    for task in results.tasks.values():
        if not task.samples:
            raise DistillensError(
                f"{task.source}: no samples of {task.task} beside it; run with --log_samples"
            )
        _check_seeds(task)
        if metrics is not None:
            _score_where_missing(task, backend, metrics)
    return System(
        name=results.model_name,
        source=os.fspath(path),
        samples={name: task.samples for name, task in results.tasks.items()},
        fingerprints={name: task.fingerprint for name, task in results.tasks.items()},
        metrics={name: task.metrics for name, task in results.tasks.items()},
        configs={name: task.config for name, task in results.tasks.items()},
    )


def _check_seeds(task: TaskResult) -> None:
    first = task.samples[0]
    for sample in task.samples:
        if sample.seeds != first.seeds:
            raise DistillensError(
                f"{task.source}: {task.task}: row {sample.row_id!r} has seeds {sample.seeds}, but "
                f"row {first.row_id!r} has {first.seeds}; run the evaluation again"
            )


def _score_where_missing(task: TaskResult, backend: str | None, further: Sequence[str]) -> None:
    """--predict_only leaves answers without scores; the task says which metrics it needs."""
    listed = task.config.get("metrics")
    metrics = [*(listed if isinstance(listed, list) else []), *further]
    unscored = [
        sample
        for sample in task.samples
        if any(name not in sample.scores for name in expected_metrics(sample, metrics))
    ]
    if unscored:
        score_samples(unscored, backend=backend, metrics=metrics)


def _make_names_unique(systems: Sequence[System]) -> None:
    names = [system.name for system in systems]
    for system in systems:
        if names.count(system.name) > 1:
            system.name = system.source
    sources = [system.name for system in systems]
    for name in sources:
        if sources.count(name) > 1:
            raise DistillensError(f"{name}: named twice; name two different systems")


def _keep_common_tasks(systems: Sequence[System]) -> None:
    having: dict[str, list[str]] = {}
    for system in systems:
        for task in system.samples:
            having.setdefault(task, []).append(system.name)
    common = [task for task, names in having.items() if len(names) == len(systems)]
    if not common:
        tasks = "; ".join(f"{system.name} has {', '.join(system.samples)}" for system in systems)
        raise DistillensError(f"no task that all systems have: {tasks}; run them on a common task")
    alone: dict[str, list[str]] = {}
    for task, names in having.items():
        if task not in common:
            alone.setdefault(", ".join(names), []).append(task)
    if alone:
        found = "; ".join(f"{_first(tasks)} only of {names}" for names, tasks in alone.items())
        systems[0].notes.append(f"tasks that not all systems have are not compared: {found}")
    _keep(systems, common)


def _first(tasks: Sequence[str]) -> str:
    rest = f" and {len(tasks) - 8} more" if len(tasks) > 8 else ""
    return ", ".join(tasks[:8]) + rest


def _keep(systems: Sequence[System], tasks: Sequence[str]) -> None:
    for system in systems:
        system.samples = {task: system.samples[task] for task in tasks}
        system.fingerprints = {
            task: system.fingerprints[task] for task in tasks if task in system.fingerprints
        }


def _check_fingerprints(task: str, first: System, other: System) -> None:
    if task not in first.fingerprints or task not in other.fingerprints:
        return
    ours, theirs = first.fingerprints[task], other.fingerprints[task]
    differing = differences(ours.protocol, theirs.protocol)
    if differing:
        found = ", ".join(f"{key} is {a} and {b}" for key, a, b in differing)
        raise DistillensError(
            f"{first.source} and {other.source}: {task} was run under different protocols: "
            f"{found}; run both with the same settings"
        )
    if ours.data != theirs.data:
        _check_rows(task, first, other)
        raise DistillensError(
            f"{first.source} and {other.source}: the data of {task} differ "
            f"({ours.data} and {theirs.data}); run both on the same benchmark files"
        )


def _check_rows(task: str, first: System, other: System) -> None:
    """Puts the rows of `other` in the order of `first`; refuses other rows or references."""
    ours = {sample.row_id: sample for sample in first.samples[task]}
    theirs = {sample.row_id: sample for sample in other.samples[task]}
    for rows, system in ((ours, first), (theirs, other)):
        if len(rows) != len(system.samples[task]):
            raise DistillensError(
                f"{system.source}: {task} has rows with the same id; ids must be unique"
            )
    only_ours = [row_id for row_id in ours if row_id not in theirs]
    only_theirs = [row_id for row_id in theirs if row_id not in ours]
    if only_ours or only_theirs:
        found = [
            f"{named(ids)} only in {system.source}"
            for ids, system in ((only_ours, first), (only_theirs, other))
            if ids
        ]
        raise DistillensError(
            f"{task}: the systems answered different rows: {'; '.join(found)}; run both with the "
            "same --limit"
        )
    changed = [row_id for row_id, sample in ours.items() if _differ(sample, theirs[row_id])]
    if changed:
        raise DistillensError(
            f"{first.source} and {other.source}: {task} has different references in "
            f"{named(changed)}; run both on the same benchmark files"
        )
    other.samples[task] = [theirs[row_id] for row_id in ours]


def _differ(one: Sample, other: Sample) -> bool:
    """Whether two rows have different references; lm-eval writes one text for all of a row's."""
    if one.target == other.target:
        return False
    short, full = sorted((one.target, other.target), key=len)
    return len(short) != 1 or short[0] not in (full[0], str(full))


def _keep_comparable_tasks(systems: Sequence[System]) -> None:
    faults = {}
    for task in systems[0].samples:
        having = [metric_names(system.samples[task]) for system in systems]
        if not any(all(metric in names for names in having) for metric in having[0]):
            found = "; ".join(
                f"{system.source} has {', '.join(map(shown, names)) or 'none'}"
                for system, names in zip(systems, having, strict=True)
            )
            note = apart_note(having)
            faults[task] = (
                f"{task}: no metric that all systems have: {found}{f'; {note}' if note else ''}"
            )
    if len(faults) == len(systems[0].samples):
        raise DistillensError(next(iter(faults.values())))
    systems[0].notes += [f"{fault}: not compared" for fault in faults.values()]
    _keep(systems, [task for task in systems[0].samples if task not in faults])
