"""The Slurm script of docs/scale.md, with stand-ins for srun and scontrol."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from forked_run import quick_recipe
from run_process import ENVIRONMENT, change, records
from tiny_run import REPO

from distillens_plugin.storage.kept_state import read_standing

SRUN = """#!/bin/bash
# One task; passes SIGUSR1 on, as srun does. A task that fails ends the others only if it is told.
[ "$1" = --kill-on-bad-exit=1 ] || exit 64
shift
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" &
task=$!
trap 'kill -USR1 "$task"' USR1
wait "$task"
wait "$task"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$SCONTROL_LOG"; fi
"""


def script(recipe, output):
    """The documented script for this recipe and folder."""
    text = (REPO / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```bash\n")[1:]]
    (block,) = [block for block in blocks if "MASTER_ADDR=" in block]
    for documented, ours in (("runs/gpt2", str(output)), ("recipes/gpt2.yaml", str(recipe))):
        assert documented in block
        block = block.replace(documented, ours)
    return block


def start(folder, block):
    path = folder / "job.sh"
    path.write_text(block, encoding="utf-8")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(text, encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    names = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "here"}
    # The script's `python` is this one.
    places = [folder / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    names["PATH"] = os.pathsep.join(map(str, places))
    names["SCONTROL_LOG"] = str(folder / "scontrol.log")
    with (folder / "job.log").open("ab") as log:
        return subprocess.Popen(
            ["bash", str(path)], env={**ENVIRONMENT, **names}, stdout=log, stderr=log, cwd=REPO
        )


def wait_for(condition, job, folder):
    deadline = time.monotonic() + 300
    while not condition():
        assert job.poll() is None, (folder / "job.log").read_text(encoding="utf-8")[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_that_is_signalled_is_requeued_and_resumes(tmp_path):
    out = tmp_path / "out"
    # Long enough to be met in the middle of its only states.
    path = quick_recipe(tmp_path, num_epochs=60, train__save_every=1000, train__eval_every=1000)
    change(path, "log_every", 1)
    job = start(tmp_path, script(path, out))
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(records(out)) > 3, job, tmp_path)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=200) == 138, (tmp_path / "job.log").read_text(encoding="utf-8")[-3000:]
    assert (tmp_path / "scontrol.log").read_text(encoding="utf-8") == "requeue 4711\n"
    step = read_standing(out / "state").step
    assert 3 <= step < 120
    job = start(tmp_path, script(path, out))
    assert job.wait(timeout=300) == 0
    assert f"step {step}" in (tmp_path / "job.log").read_text(encoding="utf-8")
    assert (tmp_path / "scontrol.log").read_text(encoding="utf-8") == "requeue 4711\n"
    assert [r["step"] for r in records(out) if "loss" in r] == list(range(1, 121))
