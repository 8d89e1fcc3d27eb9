"""Answers that are not scored here, beside the samples in the files of the benchmark's judge."""

from pathlib import Path

from eval_harness.benchmarks.judge_files import write_judge_files
from eval_harness.generation.task import Task, say
from eval_harness.results.folder import model_folder_name
from eval_harness.results.schema import Results


def write_for_judge(task: Task, results: Results, path: Path) -> None:
    """Writes `judge_<task>_<time>/` if the benchmark has a judge, and says how to run that.

    Args:
        results: with the task's samples.
        path: of the results file, `results_<time>.json`.
    Raises:
        RunFailure: a file cannot be written.
    """
    benchmark = task.benchmark
    if benchmark.judge_format is None:
        return
    folder = path.with_name(path.stem.replace("results", f"judge_{benchmark.task}", 1))
    command = write_judge_files(
        benchmark,
        results.tasks[benchmark.task].samples,
        folder,
        model=model_folder_name(results.model_name),
        seconds=results.date,
    )
    say(f"{benchmark.task}: for its judge: {command}")
