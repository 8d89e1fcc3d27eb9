"""The results of an evaluation on disk, in lm-eval's layout.

<output_path>/<model>/results_<time>.json           metrics, settings, fingerprints of each task
<output_path>/<model>/samples_<task>_<time>.jsonl   one row of the benchmark on each line

The results file is written last and every file is renamed into place, so a results file that
exists is complete.
"""

import datetime
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.results.environment import environment_of
from eval_harness.results.file_models import ResultsFile
from eval_harness.results.format_version import RESULTS_FORMAT
from eval_harness.results.schema import (
    Fingerprint,
    Results,
    Sample,
    TaskResult,
)
from eval_harness.shared.differences import differences
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import check_writable, write_json
from eval_harness.shared.files.jsonl import read_jsonl, write_jsonl
from eval_harness.shared.files.typed_json import check, read_object, shown

_EXPECTED = "expected a results file that eval-harness run wrote"
_NO_METRIC = ("name", "alias", "sample_len")
_TIME_IN_NAME = re.compile(r"results_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6})\.json")


def model_folder_name(model_name: str) -> str:
    """The model's name as a unique folder name.

    By lm-eval's rule (`org/model` is `org__model`) if no other name would give the same. Otherwise,
    and if that would not be a usable name (`..`, or hundreds of characters), a digest follows it.
    """
    plain = re.sub(r"[\"<>:/|\\?*\[\]\x00-\x1f]+", "__", model_name)
    if (
        plain.strip(".")
        and plain.replace("__", "/") == model_name
        and len(os.fsencode(plain)) <= 200
    ):
        return plain
    return f"{plain.strip('.')[:60] or 'model'}-{digest(model_name)[:8]}"


def write_results(results: Results, output_path: str | os.PathLike[str]) -> Path:
    """Writes samples and then the results file under <output_path>/<model>/.

    A task without samples (not logged) gets no samples file.

    Returns:
        The path of the results file.
    Raises:
        RunFailure: the results hold NaN, or the folder cannot be written.
        DistillensError: a sample's lists do not have one entry for each seed.
    """
    folder = Path(output_path) / model_folder_name(results.model_name)
    moment = datetime.datetime.fromtimestamp(results.date, tz=datetime.UTC)
    time = moment.strftime("%Y-%m-%dT%H-%M-%S.%f")
    for task in results.tasks.values():
        for sample in task.samples:
            sample.check(f"{folder}: task {task.task}")
    check_writable(folder)
    for task in results.tasks.values():
        if task.samples:
            path = folder / f"samples_{task.task}_{time}.jsonl"
            try:
                write_jsonl(path, (sample.to_json() for sample in task.samples))
            except ValueError as error:
                raise RunFailure(f"{path}: {error}; JSON has no NaN and no infinity") from error
    path = folder / f"results_{time}.json"
    write_json(path, results.to_json())
    return path


def load_results(path: str | os.PathLike[str], *, samples: bool = True) -> Results:
    """Reads a results file, a model's folder, or an output path with a single model in it.

    In a folder, each task comes from the newest results file that has it, so tasks may have been
    run separately.

    Args:
        path: as given by the user.
        samples: also read the samples files, if there are any.
    Raises:
        DistillensError: no results, several models (or one that changed between the tasks), or
            files that are not ours.
    """
    files = results_files(Path(path))
    newest, *older = [_read_results_file(file, samples=samples) for file in reversed(files)]
    for results in older:
        for name, task in results.tasks.items():
            newest.tasks.setdefault(name, task)
    _check_one_model(list(newest.tasks.values()))
    return newest


def _check_one_model(tasks: list[TaskResult]) -> None:
    """A model keeps its name when it is trained again, but not its fingerprint."""
    for task in tasks[1:]:
        first = tasks[0]
        ours, theirs = first.fingerprint.model, task.fingerprint.model
        differing = differences(theirs, ours)
        if differing:
            key, then, now = differing[0]
            raise DistillensError(
                f"{task.source}: {task.task} and {first.task} of {first.source} were answered by "
                f"different models ({key} is {shown(then)} and {shown(now)}); run {task.task} "
                "again, or name one of the results files"
            )


def read_samples(
    path: str | os.PathLike[str], *, results_format: int = RESULTS_FORMAT
) -> list[Sample]:
    """Reads a samples file; errors name file and line."""
    return [
        Sample.from_json(row, f"{path}:{line}", results_format=results_format)
        for line, row in read_jsonl(path)
    ]


def results_files(path: Path) -> list[Path]:
    """The results files that `path` stands for, oldest first.

    Raises:
        DistillensError: none, or those of several models.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DistillensError(f"{path}: no such file or folder")
    here = sorted(path.glob("results_*.json"))
    if here:
        return here
    below = sorted(path.glob("*/results_*.json"))
    folders = sorted({file.parent.name for file in below})
    if not folders:
        raise DistillensError(f"{path}: no results_*.json in it or in a folder below it")
    if len(folders) > 1:
        raise DistillensError(
            f"{path}: results of several models ({', '.join(folders)}); name one of their folders"
        )
    return below


def _read_results_file(file: Path, *, samples: bool) -> Results:
    content = read_object(file, expected=_EXPECTED)
    known = check(ResultsFile, content, str(file), expected=_EXPECTED)
    tasks = {name: _task_result(name, known, file) for name in known.results}
    time = _TIME_IN_NAME.fullmatch(file.name)
    if samples and time:
        for task in tasks.values():
            rows = file.parent / f"samples_{task.task}_{time.group(1)}.jsonl"
            if rows.exists():
                task.samples = _samples_of(task, rows, known.results_format)
    return Results(known.model_name, known.config, tasks, known.date, environment_of(content))


def _task_result(name: str, known: ResultsFile, file: Path) -> TaskResult:
    tables: dict[str, Mapping[str, Any]] = {
        "configs": known.configs,
        "versions": known.versions,
        "n-samples": known.num_samples,
        "fingerprints": known.fingerprints,
    }
    for key, table in tables.items():
        if name not in table:
            raise DistillensError(f"{file}: no key {key}.{shown(name)}; {_EXPECTED}")
    fingerprint = known.fingerprints[name]
    return TaskResult(
        task=name,
        metrics={
            **{key: value for key, value in known.results[name].items() if key not in _NO_METRIC},
            **known.details.get(name, {}),
        },
        config=known.configs[name],
        version=known.versions[name],
        num_original=known.num_samples[name].original,
        num_effective=known.num_samples[name].effective,
        fingerprint=Fingerprint(
            protocol=fingerprint.protocol,
            data=fingerprint.data,
            model=fingerprint.model,
            versions=fingerprint.versions,
        ),
        source=str(file),
    )


def _samples_of(task: TaskResult, rows: Path, results_format: int) -> list[Sample]:
    samples = read_samples(rows, results_format=results_format)
    if len(samples) != task.num_effective:
        raise DistillensError(
            f"{rows}: found {len(samples)} rows, expected the {task.num_effective} of "
            f"{task.source}; run the evaluation again"
        )
    lines: dict[str, int] = {}
    for number, sample in enumerate(samples, start=1):
        if sample.row_id in lines:
            raise DistillensError(
                f"{rows}: rows {lines[sample.row_id]} and {number} have the same id "
                f"{shown(sample.row_id)!r}; run the evaluation again"
            )
        lines[sample.row_id] = number
    return samples
