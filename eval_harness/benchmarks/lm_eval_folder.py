"""The folder of exported lm-eval tasks: its files, and what an export must not replace."""

import os
from collections.abc import Sequence
from pathlib import Path

from eval_harness.benchmarks.definition import Benchmark
from eval_harness.errors import DistillensError

FUNCTIONS = "distillens_functions"
MARK = "# Written by eval-harness export-lm-eval; it may be written over."


def module_file(folder: Path) -> Path:
    """The functions of all tasks."""
    return folder / f"{FUNCTIONS}.py"


def task_file(folder: Path, task: str) -> Path:
    """What lm-eval reads of a task."""
    return folder / f"distillens_{task}.yaml"


def rows_file(folder: Path, task: str) -> Path:
    """A task's local rows."""
    return folder / "data" / f"{task}.jsonl"


def check_folder(folder: Path, benchmarks: Sequence[Benchmark]) -> None:
    """Refuses a folder in which an export would replace, or break, what is not its own.

    The same tasks may be exported again, with others beside them.

    Args:
        folder: may be missing.
    Raises:
        DistillensError: it holds a task or a module that was not exported, an exported task that
            is not among these (the new functions would lack its own), or rows that are a
            benchmark's own or of no exported task.
    """
    tasks = [benchmark.task for benchmark in benchmarks]
    ours = [task_file(folder, task) for task in tasks]
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml"), module_file(folder)]):
        if not os.path.lexists(file):
            continue
        if not _has_mark(file):
            raise DistillensError(
                f"{file}: found a file that export-lm-eval did not write, expected a folder "
                "without other tasks; name another folder"
            )
        if file not in ours and file != module_file(folder):
            raise DistillensError(
                f"{file}: found another exported task, whose functions would be lost; export it "
                "together with these, or name another folder"
            )
    local = {item.task: item.path for item in benchmarks if item.path is not None}
    for rows in [rows_file(folder, task) for task in local]:
        for task, path in local.items():
            if rows.exists() and path.exists() and rows.samefile(path):
                raise DistillensError(
                    f"{rows}: {task} reads its rows here, and they would be replaced; name another "
                    "folder"
                )
    for task in local:
        if rows_file(folder, task).exists() and not task_file(folder, task).exists():
            raise DistillensError(
                f"{rows_file(folder, task)}: found rows of no exported task, which would be "
                "replaced; name another folder"
            )


def _has_mark(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(MARK)) == MARK.encode()
    except OSError as error:
        raise DistillensError(
            f"{file}: cannot be read ({error.strerror}); name another folder"
        ) from error
