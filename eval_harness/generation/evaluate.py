"""One evaluation: first everything that can be refused, then weights, answers, scores, files."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval_harness.backends.table import backend_class
from eval_harness.benchmarks import Benchmark, Row
from eval_harness.errors import DistillensError
from eval_harness.generation.engine import Engine, choose_engine
from eval_harness.generation.judged import write_for_judge
from eval_harness.generation.scorable import check_scorable
from eval_harness.generation.task import (
    Settings,
    Task,
    check_complete,
    close_stores,
    limited_rows,
    newlines_read,
    open_stores,
    prepare_task,
    stores_of,
    write_out,
)
from eval_harness.generation.task_results import results_of
from eval_harness.generation.work import fill_stores
from eval_harness.results.folder import load_results, model_folder_name, write_results
from eval_harness.results.schema import Results
from eval_harness.shared.files.atomic import check_can_be_made, check_writable
from eval_harness.shared.files.lock import FolderLock

Read = tuple[Benchmark, int, list[Row]]


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
        The results, and the path of the results file; samples only in the main process, if the
        settings name several processes.
    Raises:
        DistillensError: bad input, refused before any weights are loaded.
        RunFailure: the backend failed, or a file cannot be written.
    """
    evaluation = prepare_evaluation(settings)
    with open_evaluation(evaluation):
        return finish_evaluation(evaluation)


def read_rows(settings: Settings) -> list[Read]:
    """Each benchmark with its number of rows, and the rows to run.

    Raises:
        DistillensError: the rows cannot be read or scored, or there is no row of an index.
    """
    read = [
        (
            benchmark,
            *limited_rows(benchmark, settings.limit, (settings.samples or {}).get(benchmark.task)),
        )
        for benchmark in newlines_read(settings)
    ]
    for benchmark, _, rows in read:
        check_scorable(benchmark, rows, predict_only=settings.predict_only)
    return read


def prepare_evaluation(settings: Settings, read: Sequence[Read] | None = None) -> Evaluation:
    """Everything that can be refused without the answers of an earlier run.

    Args:
        read: from `read_rows`, where they have been read already.
    Raises:
        DistillensError: bad input.
    """
    return settings.processes.together(lambda: _prepared(settings, read))


def _prepared(settings: Settings, read: Sequence[Read] | None) -> Evaluation:
    started = time.time()
    processes = settings.processes
    if processes.size > 1:
        _take_device(settings)
    if read is None:
        read = read_rows(settings)
    if processes.is_main:
        check_can_be_made(settings.output_path)
    engine = choose_engine(
        settings.model,
        settings.model_args,
        default_dtype=settings.protocol.dtype,
        trust_remote_code=settings.trust_remote_code,
        working_folder=settings.working_folder,
        sampled=not settings.protocol.greedy,
    )
    tasks = [prepare_task(*item, settings=settings, facts=engine.facts) for item in read]
    if settings.write_out:
        for task in tasks:
            write_out(task)
    evaluation = Evaluation(settings, engine, tasks, started)
    if processes.is_main:
        check_writable(evaluation.folder)
    return evaluation


def _take_device(settings: Settings) -> None:
    processes, backend = settings.processes, backend_class(settings.model)
    if backend.one_process:
        raise DistillensError(
            f"--model {settings.model} under a launcher of {processes.size} processes: "
            f"{backend.one_process}"
        )
    backend.take_device(
        settings.model_args, local_rank=processes.local_rank, local_size=processes.local_size
    )


@contextlib.contextmanager
def open_evaluation(evaluation: Evaluation) -> Iterator[None]:
    """Holds the folder of its answers, with the stores open.

    Raises:
        DistillensError: another run works there, or a store is not ours.
    """
    processes = evaluation.settings.processes
    with contextlib.ExitStack() as stack:

        def open_own() -> None:
            stack.callback(_close, evaluation)
            for task in evaluation.tasks:
                open_stores(task, evaluation.folder, evaluation.settings, evaluation.engine)

        def open_first() -> None:
            if processes.is_main:
                stack.enter_context(FolderLock(evaluation.folder))
                open_own()

        processes.together(open_first)
        if processes.size > 1:
            # They read what the main process has found, also in the parts of a killed run.
            processes.together(lambda: None if processes.is_main else open_own())
        yield


def _close(evaluation: Evaluation) -> None:
    for task in evaluation.tasks:
        close_stores(task)


def finish_evaluation(evaluation: Evaluation) -> tuple[Results, Path]:
    """Answers, scores, files; its stores are open.

    Raises:
        RunFailure: the backend failed, or a file cannot be written.
    """
    tasks, processes = evaluation.tasks, evaluation.settings.processes
    fill_stores(tasks, evaluation.engine, processes)
    if processes.size == 1:
        return _write(evaluation)
    processes.together(lambda: _sync(tasks))

    def write_or_read() -> tuple[Results, Path]:
        if processes.is_main:
            for task in tasks:
                for store in stores_of(task):
                    store.take_parts()
                check_complete(task)
            results, path = _write(evaluation)
            processes.path_of_main(path)
            return results, path
        path = processes.path_of_main(None)
        return load_results(path, samples=False), path

    return processes.together(write_or_read)


def _write(evaluation: Evaluation) -> tuple[Results, Path]:
    settings = evaluation.settings
    results = results_of(evaluation.tasks, settings, evaluation.engine, started=evaluation.started)
    path = write_results(results, settings.output_path)
    for result in results.tasks.values():
        result.source = str(path)
    if settings.predict_only:
        for task in evaluation.tasks:
            write_for_judge(task, results, path)
    return results, path


def _sync(tasks: Sequence[Task]) -> None:
    for task in tasks:
        for store in stores_of(task):
            store.sync()
