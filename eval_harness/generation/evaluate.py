"""One evaluation: first everything that can be refused, then weights, answers, scores, files."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eval_harness.generation.engine import Engine, choose_engine
from eval_harness.generation.task import (
    Settings,
    Task,
    close_stores,
    limited_rows,
    newlines_read,
    open_stores,
    prepare_task,
    write_out,
)
from eval_harness.generation.task_results import results_of
from eval_harness.generation.work import fill_stores
from eval_harness.results.folder import model_folder_name, write_results
from eval_harness.results.schema import Results
from eval_harness.shared.files.atomic import check_can_be_made, check_writable
from eval_harness.shared.files.lock import FolderLock


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of which nothing more can be refused, but for what its stores hold.

    Attributes:
        started: in seconds since the epoch.
    """

    settings: Settings
    engine: Engine
    tasks: list[Task]
    started: float

    @property
    def folder(self) -> Path:
        """Of its answers and results."""
        return self.settings.output_path / model_folder_name(self.engine.facts.name)


def run_evaluation(settings: Settings) -> tuple[Results, Path]:
    """Runs an evaluation, resuming from what an interrupted one has left.

    Returns:
        The results, and the path of the results file.
    Raises:
        DistillensError: bad input, refused before any weights are loaded.
        RunFailure: the backend failed, or a file cannot be written.
    """
    evaluation = prepare_evaluation(settings)
    with open_evaluation(evaluation):
        return finish_evaluation(evaluation)


def prepare_evaluation(settings: Settings) -> Evaluation:
    """Everything that can be refused without the answers of an earlier run.

    Raises:
        DistillensError: bad input.
    """
    started = time.time()
    loaded = [
        (
            benchmark,
            *limited_rows(benchmark, settings.limit, (settings.samples or {}).get(benchmark.task)),
        )
        for benchmark in newlines_read(settings)
    ]
    check_can_be_made(settings.output_path)
    engine = choose_engine(
        settings.model,
        settings.model_args,
        default_dtype=settings.protocol.dtype,
        trust_remote_code=settings.trust_remote_code,
        working_folder=settings.working_folder,
    )
    tasks = [prepare_task(*item, settings=settings, facts=engine.facts) for item in loaded]
    if settings.write_out:
        for task in tasks:
            write_out(task)
    evaluation = Evaluation(settings, engine, tasks, started)
    check_writable(evaluation.folder)
    return evaluation


@contextlib.contextmanager
def open_evaluation(evaluation: Evaluation) -> Iterator[None]:
    """Holds the folder of its answers, with the stores open.

    Raises:
        DistillensError: another run works there, or a store is not ours.
    """
    with FolderLock(evaluation.folder):
        try:
            for task in evaluation.tasks:
                open_stores(task, evaluation.folder, evaluation.settings, evaluation.engine)
            yield
        finally:
            for task in evaluation.tasks:
                close_stores(task)


def finish_evaluation(evaluation: Evaluation) -> tuple[Results, Path]:
    """Answers, scores, files; its stores are open.

    Raises:
        RunFailure: the backend failed, or a file cannot be written.
    """
    settings, engine, tasks = evaluation.settings, evaluation.engine, evaluation.tasks
    fill_stores(tasks, engine)
    results = results_of(tasks, settings, engine, started=evaluation.started)
    path = write_results(results, settings.output_path)
    for result in results.tasks.values():
        result.source = str(path)
    return results, path
