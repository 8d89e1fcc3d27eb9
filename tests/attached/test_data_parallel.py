"""Two processes with DDP give the gradients of one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair import assert_close, batch, gradients, pair, run_both

from distillens_plugin import AttachedLens

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "ddp_attached.py"


@pytest.mark.parametrize(("when", "headless"), [("before", "true"), ("after", "false")])
def test_two_ranks(tmp_path, when, headless):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(SCRIPT), when, headless, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    student, teacher = pair()
    ids, labels = batch(rows=4)
    labels[3] = -100
    lens = AttachedLens(student, teacher, {"auto": 2}, norm="final")
    run_both(student, teacher, ids)
    loss = lens.loss(labels)
    loss.backward()
    expected = gradients(student)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        torch.testing.assert_close(found["loss"].double(), loss.detach(), rtol=1e-6, atol=1e-6)
        assert_close(found["gradients"], expected, 1e-12)
