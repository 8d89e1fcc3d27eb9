"""TRL's trainers with the lens on two gloo processes."""

import subprocess
import sys

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

import torch
from run_process import ENVIRONMENT, TWO_PROCESSES
from tiny_run import REPO
from trl_run import learnt_with_distillation, learnt_with_gkd


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes learnt from batches of 2."""
    folder = tmp_path_factory.mktemp("ranks")
    script = str(REPO / "tests/scripts/trl_train.py")
    done = subprocess.run(
        [sys.executable, *TWO_PROCESSES, script, str(folder), "2"],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_of_batch_2_train_as_one_of_batch_4(tmp_path, ranks):
    _, alone = learnt_with_distillation(tmp_path, 4)
    first, second = (rank["distillation"] for rank in ranks)
    assert first["wrapper"] == "DistributedDataParallel"
    assert torch.equal(first["weights"], second["weights"])
    # Rotary angles are float32, and rows are padded to other lengths.
    assert torch.allclose(first["weights"], alone["weights"], rtol=0, atol=1e-5)
    for name in ("lens", "pair"):
        assert len(first[name]) == 10
        assert first[name] == pytest.approx(alone[name], abs=1e-6)
    assert first["evaluated"] == second["evaluated"]
    assert first["evaluated"] == pytest.approx(alone["evaluated"], abs=1e-6)


def test_gkd_on_two_processes(tmp_path, ranks):
    _, alone = learnt_with_gkd(tmp_path, 4)
    first, second = (rank["gkd"] for rank in ranks)
    assert first["wrapper"] == "DistributedDataParallel"
    assert torch.equal(first["weights"], second["weights"])
    # TRL divides by the tokens of all processes and then takes their mean, so the weights differ
    # from one process's, but not what is logged of the first step.
    assert first["lens"][0] == pytest.approx(alone["lens"][0], abs=1e-6)
    assert len(first["lens"]) == 10
