"""The results of an evaluation on disk, in lm-eval's layout.

<output_path>/<model>/results_<time>.json           metrics, settings, fingerprints of each task
<output_path>/<model>/samples_<task>_<time>.jsonl   one row of the benchmark on each line

The results file is written last and every file is renamed into place, so a results file that
exists is complete.
"""

import datetime
import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from eval_harness.atomic import check_writable, write_json
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.jsonl import read_jsonl, write_jsonl
from eval_harness.result_schema import (
    NOT_AVAILABLE,
    Fingerprint,
    Results,
    Sample,
    TaskResult,
    digest,
    metric_names,
)

__all__ = [
    "NOT_AVAILABLE",
    "Fingerprint",
    "Results",
    "Sample",
    "TaskResult",
    "check_writable",
    "digest",
    "load_results",
    "metric_names",
    "model_folder_name",
    "read_samples",
    "write_results",
]

_TIME_IN_NAME = re.compile(r"results_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6})\.json")


def model_folder_name(model_name: str) -> str:
    """The model's name as a folder name, by lm-eval's rule."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model_name)


def write_results(results: Results, output_path: str | os.PathLike[str]) -> Path:
    """Writes samples and then the results file under <output_path>/<model>/.

    A task without samples (not logged) gets no samples file.

    Returns:
        The path of the results file.
    Raises:
        RunFailure: NaN in the results, or the folder cannot be written.
        DistillensError: a sample whose lists do not have one entry for each seed.
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

    In a folder each task comes from the newest results file that has it, so tasks may have been
    run one by one.

    Args:
        path: as given by the user.
        samples: read the samples files as well, where there are any.
    Raises:
        DistillensError: nothing there, several models there, or files that are not ours.
    """
    files = _results_files(Path(path))
    newest, *older = [_read_results_file(file, samples=samples) for file in reversed(files)]
    for results in older:
        for name, task in results.tasks.items():
            newest.tasks.setdefault(name, task)
    return newest


def read_samples(path: str | os.PathLike[str]) -> list[Sample]:
    """Reads a samples file; errors name file and line."""
    return [Sample.from_json(row, f"{path}:{line}") for line, row in read_jsonl(path)]


def _results_files(path: Path) -> list[Path]:
    """The results files that `path` stands for, oldest first."""
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
    content = _read_json(file)
    try:
        tasks = {name: _task_result(name, content, file) for name in content["results"]}
        results = Results(
            model_name=content["model_name"],
            config=content["config"],
            tasks=tasks,
            date=content["date"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DistillensError(
            f"{file}: not a results file of eval_harness ({type(error).__name__}: {error})"
        ) from error
    time = _TIME_IN_NAME.fullmatch(file.name)
    if samples and time:
        for task in tasks.values():
            rows = file.parent / f"samples_{task.task}_{time.group(1)}.jsonl"
            if rows.exists():
                task.samples = read_samples(rows)
    return results


def _task_result(name: str, content: dict[str, Any], file: Path) -> TaskResult:
    fingerprint = content["fingerprints"][name]
    return TaskResult(
        task=name,
        metrics={key: value for key, value in content["results"][name].items() if key != "alias"},
        config=content["configs"][name],
        version=content["versions"][name],
        num_original=content["n-samples"][name]["original"],
        num_effective=content["n-samples"][name]["effective"],
        fingerprint=Fingerprint(
            protocol=fingerprint["protocol"],
            data=fingerprint["data"],
            model=fingerprint["model"],
            versions=fingerprint["versions"],
        ),
        source=str(file),
    )


def _read_json(file: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(file.read_bytes().decode("utf-8-sig"), parse_constant=refuse)
    except OSError as error:
        raise DistillensError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DistillensError(f"{file}: not a results file: {error}") from error
    if not isinstance(content, dict):
        raise DistillensError(f"{file}: not a results file: expected a JSON object")
    return content
