"""Finds benchmarks: the built-in ones, and those of --include_path."""

import fnmatch
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from eval_harness.benchmarks.definition import Benchmark, load_benchmark
from eval_harness.errors import DistillensError
from eval_harness.shared.near import near_names

_FOLDER = Path(__file__).parent


def find_benchmarks(include_path: str | Path | None = None) -> dict[str, Benchmark]:
    """All benchmarks by name; the user's own replace built-in ones of the same name.

    Args:
        include_path: a folder of benchmark files (`*.yaml`, `*.yml`), or one such file.
    Raises:
        DistillensError: a file is not a benchmark, or `include_path` holds none.
    """
    found = _by_name(sorted(_FOLDER.glob("*.yaml")))
    if include_path is not None:
        found.update(_by_name(_files(Path(include_path))))
    return found


def _files(path: Path) -> list[Path]:
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise DistillensError(f"--include_path {path}: no such file or folder")
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    if not files:
        raise DistillensError(f"--include_path {path}: no *.yaml in it, expected benchmark files")
    return files


def _by_name(files: Iterable[Path]) -> dict[str, Benchmark]:
    found: dict[str, Benchmark] = {}
    for file in files:
        benchmark = load_benchmark(file)
        if benchmark.task in found:
            raise DistillensError(
                f"{file}: task {benchmark.task!r} is also defined in "
                f"{found[benchmark.task].source}; rename one"
            )
        found[benchmark.task] = benchmark
    return found


def select_benchmarks(
    tasks: str | Sequence[str], known: dict[str, Benchmark], data: Sequence[str] = ()
) -> list[Benchmark]:
    """The benchmarks in a list, with local data files filled in.

    Args:
        tasks: names, patterns of names (`m*`), or paths of benchmark files (ending in .yaml or
            .yml): a sequence, or a text with commas.
        known: from `find_benchmarks`.
        data: entries "task=PATH"; a folder stands for the valid.jsonl in it.
    Raises:
        DistillensError: an unknown task (with near names), a task named twice, or a --data entry
            without a file, or for a task that is not run.
    """
    chosen: dict[str, Benchmark] = {}
    names = tasks.split(",") if isinstance(tasks, str) else tasks
    parts = [part.strip() for part in names if part.strip()]
    for name in [name for part in parts for name in _matching(part, known)]:
        is_file = name.endswith((".yaml", ".yml"))
        benchmark = load_benchmark(Path(name)) if is_file else known.get(name)
        if benchmark is None:
            raise DistillensError(
                f"--tasks {name}: no such benchmark, expected {', '.join(sorted(known))} or a "
                f".yaml file{near_names(name, known)}"
            )
        if benchmark.task in chosen:
            raise DistillensError(f"--tasks: {benchmark.task} is named twice; name it once")
        chosen[benchmark.task] = benchmark
    if not chosen:
        raise DistillensError(f"--tasks is empty, expected some of {', '.join(sorted(known))}")
    for entry in data:
        task, _, path = entry.partition("=")
        if task not in chosen or not path:
            raise DistillensError(
                f"--data {entry}: expected TASK=PATH with one of the tasks "
                f"{', '.join(chosen)}{near_names(task, chosen)}"
            )
        chosen[task] = replace(chosen[task], path=_data_file(task, Path(path)))
    return list(chosen.values())


def _matching(part: str, known: Iterable[str]) -> list[str]:
    """The names that a pattern stands for; what is no pattern, or matches none, as it is."""
    return (sorted(fnmatch.filter(known, part)) if "*" in part else []) or [part]


def _data_file(task: str, path: Path) -> Path:
    file = path / "valid.jsonl" if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise DistillensError(
            f"--data {task}={path}: not found, expected a JSONL file or a folder with valid.jsonl"
        )
    return file.resolve()
