"""The plan of a small pair against the memory of a real step, and the table in the docs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def benchmark(*command):
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("cold_python")  # memory is measured
def test_a_dry_run_takes_what_the_plan_computes():
    lines = benchmark("benchmarks/plan.py", "--pairs", "small", "--json").splitlines()
    # Libraries print lines of their own.
    (found,) = (json.loads(line) for line in lines if line.startswith("{"))
    # Well beyond what the resident memory of Python varies by.
    assert found["measured_mib"] > 300
    assert 0.75 < found["computed_mib"] / found["measured_mib"] < 1.25


def test_the_documents_table_is_what_the_script_prints():
    page = (REPO / "docs" / "scale.md").read_text(encoding="utf-8")
    assert benchmark("benchmarks/plan_table.py").strip() in page
