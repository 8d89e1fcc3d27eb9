"""Refuses what cannot be scored, before anything is generated."""

from collections.abc import Sequence

from eval_harness.benchmarks import Benchmark, Row
from eval_harness.errors import DistillensError
from eval_harness.scoring.checked_metrics import check_rows


def check_references(
    benchmarks: Sequence[Benchmark],
    rouge_tokenizer: str,
    predict_only: bool,
    loglikelihood: bool,
) -> None:
    """Refuses settings that need references where the benchmarks have none.

    Raises:
        DistillensError: names the benchmark, and what to do.
    """
    without = [benchmark for benchmark in benchmarks if benchmark.references == "none"]
    for benchmark in without:
        if loglikelihood:
            raise DistillensError(
                f"--loglikelihood: {benchmark.task} has no references; drop it, or the task"
            )
        if not benchmark.metrics and not predict_only:
            raise DistillensError(
                f"{benchmark.task} has neither references nor metrics, so nothing can be scored; "
                "give --predict_only"
            )
    if rouge_tokenizer != "default" and len(without) == len(benchmarks):
        raise DistillensError(
            f"--rouge_tokenizer {rouge_tokenizer}: {without[0].task} has no references to compare "
            "with; drop it"
        )


def check_scorable(benchmark: Benchmark, rows: Sequence[Row], *, predict_only: bool) -> None:
    """Refuses rows of which nothing can be scored, and a checker that is not installed.

    Args:
        rows: those that are run.
    Raises:
        DistillensError: names the benchmark, and what to do.
    """
    if predict_only:
        return
    check_rows([(row.row_id, row.doc) for row in rows], benchmark.metrics)
    if benchmark.references == "some" and not any(row.references for row in rows):
        raise DistillensError(
            f"{benchmark.task}: none of the {len(rows)} rows has a reference to compare with; "
            "choose others with --samples or a larger --limit, or give --predict_only"
        )
