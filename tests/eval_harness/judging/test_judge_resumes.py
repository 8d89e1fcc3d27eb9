"""A run that is killed or interrupted keeps its verdicts, and the next one asks for the rest."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_judge import CHAT

from eval_harness.cli import main


def start(arguments) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "eval_harness", *arguments, "--max_concurrent=2"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_a_run_that_is_stopped_goes_on_where_it_was(arguments, fake, capsys, tmp_path, number):
    right, go_on = fake.answer, threading.Event()

    def seven_and_no_more(handler, answer):
        if len(fake.messages) > 7:
            go_on.wait(timeout=60)
        right(handler, answer)

    fake.faults[CHAT] = seven_and_no_more
    process = start(arguments)
    deadline = time.monotonic() + 60
    # Both threads wait for an answer then, and the others have theirs.
    while num_kept(tmp_path) < 6 or len(fake.messages) < num_kept(tmp_path) + 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert "Traceback" not in said
    go_on.set()
    kept, asked = num_kept(tmp_path), len(fake.messages)
    assert 6 <= kept == asked - 2
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]["small"]
    assert (found["wins"], found["losses"], found["ties"]) == (7, 2, 1)
    assert len(fake.messages) == asked + 20 - kept


def num_kept(tmp_path: Path) -> int:
    files = list((tmp_path / "judged").glob("verdicts_*.jsonl"))
    return max(0, files[0].read_bytes().count(b"\n") - 1) if files else 0
