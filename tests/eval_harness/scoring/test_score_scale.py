"""The largest benchmark is scored in seconds: uinst's 23,916 rows with five seeds."""

import json
import subprocess
import sys

import pytest

from eval_harness.scoring.rouge import rouge_backend


@pytest.mark.skipif(
    rouge_backend() != "rouge-score-rs", reason="rouge-score-rs (the `fast` extra) not installed"
)
def test_uinst_with_five_seeds_takes_under_ten_seconds_of_cpu(repo):
    done = subprocess.run(
        [sys.executable, repo / "benchmarks" / "score.py"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    result = json.loads(done.stdout)
    assert (result["num_rows"], result["num_seeds"]) == (23_916, 5)
    # Scoring, and the intervals and answer statistics of the result.
    assert result["total_cpu_s"] < 10
