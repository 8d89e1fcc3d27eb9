"""benchmarks/gpu: stages and their processes share the time, and end when it is up."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "gpu"
sys.path.append(str(SCRIPTS))

import right  # noqa: E402

runner = importlib.import_module("all")  # a name that Python has, too


@pytest.mark.usefixtures("cold_python")  # nothing to import is quickest
def test_a_stage_that_runs_out_of_time_ends_with_all_that_it_started(tmp_path, monkeypatch):
    child = tmp_path / "child"
    script = f"""
import pathlib, subprocess, time
child = subprocess.Popen(["sleep", "600"])
pathlib.Path({str(child)!r}).write_text(str(child.pid))
time.sleep(600)
"""
    (tmp_path / "stuck.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(runner, "HERE", tmp_path)
    monkeypatch.setattr(runner, "GRACE", 0)
    given = runner.argparse.Namespace(device="cpu", tiny=True)
    assert runner.run_stage("stuck", 5, given, tmp_path) == 124
    pid = int(child.read_text(encoding="utf-8"))
    until = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid):
    """A zombie is not: whoever inherits it may leave it for a while."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return state[:1] not in ("", "Z")


def test_a_late_stage_takes_no_time_from_those_to_come():
    stages, left = list(runner.DEFAULT), 8 * 60.0
    shares = dict.fromkeys(stages, 0.0)
    for index, name in enumerate(stages):
        shares[name] = runner.seconds_for(stages[index:], left)
        left -= shares[name] + runner.GRACE
    for name, share in shares.items():
        assert share / shares["right"] == pytest.approx(
            runner.SHARES[name] / runner.SHARES["right"]
        )
    assert left >= -1e-6


def test_the_study_runs_only_where_it_is_named(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(runner, "run_stage", lambda name, *rest: ran.append(name) or 0)
    monkeypatch.setattr(sys, "argv", ["all.py", "--out", str(tmp_path), "--tiny"])
    monkeypatch.setattr(runner.signal, "signal", lambda *given: None)
    assert runner.main() == 0
    assert ran == ["right", "fast", "steps", "whole"]


class StuckProcess:
    """Waits as long as it may, on a clock that only waiting moves."""

    now = 0.0

    def __init__(self):
        self.killed = False

    def wait(self, timeout=None):
        if not self.killed:
            StuckProcess.now += timeout
            raise subprocess.TimeoutExpired("worker", timeout)

    def kill(self):
        self.killed = True


def test_all_workers_have_one_deadline(monkeypatch):
    monkeypatch.setattr(right.time, "monotonic", lambda: StuckProcess.now)
    processes = [StuckProcess() for _ in range(4)]
    workers = {str(i): right.Worker(p, Path(), Path()) for i, p in enumerate(processes)}
    found = dict(right.compiled_results(workers, -3.0))
    assert StuckProcess.now == right.LEAST_SECONDS
    assert all(process.killed for process in processes)
    assert [one["error"] for one in found.values()] == ["compiling did not end in time"] * 4


def test_a_pass_that_is_compiled_in_pieces_is_wrong(tmp_path):
    """The worker in a process of its own, with a divergence that breaks the graph."""
    script = f"""
import runpy, sys, torch
from distillens_plugin.divergences.kl import ForwardKL
fused = ForwardKL.loss_and_gradient
def broken(self, *given):
    torch._dynamo.graph_break()
    return fused(self, *given)
ForwardKL.loss_and_gradient = broken
compile = torch.compile
torch.compile = lambda function, **options: compile(function, backend="eager", **options)
sys.argv = ["right_compiled.py", "fkl", "cpu"]
runpy.run_path({str(SCRIPTS / "right_compiled.py")!r}, run_name="__main__")
"""
    path = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent.parent)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["ok"]
    assert found["error"].startswith("compiled in pieces: ")
