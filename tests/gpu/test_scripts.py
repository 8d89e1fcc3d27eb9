"""benchmarks/gpu: its checks of the fused walk, on a GPU where there is one; its records."""

import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "gpu"
sys.path.append(str(SCRIPTS))

from records import Record  # noqa: E402
from right_fused import fused_cases, verdict  # noqa: E402
from right_models import fallback  # noqa: E402
from table import table_of  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES = dict(fused_cases(DEVICE))


@pytest.mark.parametrize("name", CASES)
def test_fused_walk_is_right_on_this_device(name):
    found = CASES[name]()
    assert found["ok"], found


def test_a_pass_that_cannot_be_compiled_falls_back():
    found = fallback(DEVICE)
    assert found["ok"], found


def test_nan_is_never_right():
    found = verdict({"rows": 0.0, "loss": float("nan")}, torch.float32)
    assert not found["ok"]
    assert "loss" in found["error"]


def test_a_case_that_fails_is_one_line_and_the_next_one_runs(tmp_path):
    record = Record("trial", tmp_path, torch.device("cpu"), seconds=60)

    def fails():
        raise ValueError("first line\nsecond line")

    assert record.run("bad", fails) is None
    # The file is whole before the stage ends, for a stage that is killed.
    stored = json.loads((tmp_path / "trial.json").read_text(encoding="utf-8"))
    assert stored["cases"] == [
        {"case": "bad", "ok": False, "error": "ValueError: first line second line"}
    ]
    assert not stored["complete"]
    assert "in fails" in (tmp_path / "trial.errors.txt").read_text(encoding="utf-8")
    assert record.run("good", lambda: {"ms": 2.0}) == {"ms": 2.0}
    record.finish()
    stored = json.loads((tmp_path / "trial.json").read_text(encoding="utf-8"))
    assert stored["complete"]
    assert stored["machine"]["torch"] == torch.__version__
    table = table_of([stored])
    assert "1 of 2 cases ok" in table
    assert "NOT OK ValueError: first line second line" in table


def test_no_case_begins_after_the_time_is_up(tmp_path):
    record = Record("late", tmp_path, torch.device("cpu"), seconds=0)
    assert record.run("case", lambda: pytest.fail("it ran")) is None
    assert "time was up" in record.cases[0]["not_run"]


def test_a_case_without_time_is_no_failure_and_no_success(tmp_path):
    record = Record("late", tmp_path, torch.device("cpu"), seconds=60)
    record.run("right", dict)
    record.run("wrong", lambda: {"ok": False})
    record.ends = record.started
    record.run("late", dict)
    record.finish()
    assert record.failed == ["wrong"]
    table = table_of([json.loads((tmp_path / "late.json").read_text(encoding="utf-8"))])
    assert "1 of 3 cases ok, 1 not run" in table
    assert "not run: the stage's time was up" in table
