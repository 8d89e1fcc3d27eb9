"""The scripts for a GPU: every stage to its end on a CPU, at sizes whose figures mean nothing."""

import json
import subprocess
import sys

import pytest

STAGES = ("right", "fast", "steps", "whole", "worth")


@pytest.fixture(scope="module")
def trial(tmp_path_factory, repo):
    """The stages' JSON files by name, and what was printed."""
    out = tmp_path_factory.mktemp("trial")
    script = repo / "benchmarks" / "gpu" / "all.py"
    stages = f"--stages={','.join(STAGES)}"
    # The minutes bound each stage, far above what it takes.
    done = subprocess.run(
        [sys.executable, script, "--device=cpu", "--tiny", stages, "--minutes=90", "--out", out],
        capture_output=True,
        text=True,
        timeout=2400,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    read = {name: (out / f"{name}.json").read_text(encoding="utf-8") for name in STAGES}
    return {name: json.loads(text) for name, text in read.items()}, done.stdout


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_ends_with_every_case_right(trial, name):
    stages, printed = trial
    stage = stages[name]
    assert stage["complete"]
    assert len(stage["cases"]) >= 3
    assert [case for case in stage["cases"] if not case["ok"]] == []
    count = len(stage["cases"])
    assert f"-- {name}: {count} of {count} cases ok" in printed
