"""One evaluation: first everything that can be refused, then weights, answers, scores, files."""

import time
from pathlib import Path

from eval_harness.generation.engine import choose_engine
from eval_harness.generation.task import (
    Settings,
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


def run_evaluation(settings: Settings) -> tuple[Results, Path]:
    """Runs an evaluation, resuming from what an interrupted one has left.

    Returns:
        The results, and the path of the results file.
    Raises:
        DistillensError: bad input, refused before any weights are loaded.
        RunFailure: the backend failed, or a file cannot be written.
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
    )
    tasks = [prepare_task(*item, settings=settings, facts=engine.facts) for item in loaded]
    if settings.write_out:
        for task in tasks:
            write_out(task)
    folder = settings.output_path / model_folder_name(engine.facts.name)
    check_writable(folder)
    with FolderLock(folder):
        try:
            for task in tasks:
                open_stores(task, folder, settings, engine)
            fill_stores(tasks, engine)
            results = results_of(tasks, settings, engine, started=started)
            path = write_results(results, settings.output_path)
            for result in results.tasks.values():
                result.source = str(path)
            return results, path
        finally:
            for task in tasks:
                close_stores(task)
