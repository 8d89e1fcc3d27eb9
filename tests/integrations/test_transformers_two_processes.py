"""DistillLensTrainer on two gloo processes: the numbers of one process."""

import json
import subprocess
import sys

import pytest
import torch
from lens_trainer import trained_twice, widest_gap
from run_process import ENVIRONMENT, TWO_PROCESSES
from tiny_run import REPO

# Two processes with batches of 2, or twice 1, make the four rows of one process's batch.
CASES = {
    "2 x 1": (2, 1, {}),
    "1 x 2": (1, 2, {}),
    "gpt2, tied": (2, 1, {"family": "gpt2"}),
    "gradient checkpointing": (2, 1, {"gradient_checkpointing": True}),
    "own counts": (2, 1, {"average_tokens_across_devices": False}),
}
NAMES = ("loss", "lens", "lens/1-1", "lens/2-3", "kd", "cross_entropy")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes saved, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    script = REPO / "tests" / "scripts" / "trainer_ranks.py"
    done = subprocess.run(
        [sys.executable, *TWO_PROCESSES, str(script), str(folder), json.dumps(CASES)],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", [name for name in CASES if name != "own counts"])
def test_gradients_and_logs_are_those_of_one_process(tmp_path, ranks, case):
    one, other = (rank[case] for rank in ranks)
    family = CASES[case][2].get("family", "llama")
    _, alone = trained_twice(tmp_path, 4, 1, family=family)
    assert widest_gap(one["weights"], other["weights"]) == 0
    # Two steps at a rate of 1: a gradient that counted tokens by process would be far off.
    assert widest_gap(one["weights"], alone["weights"]) < 1e-5
    values = [alone["log"][name] for name in NAMES]
    assert [one["log"][name] for name in NAMES] == pytest.approx(values, rel=1e-5)


def test_an_evaluation_is_of_all_processes(ranks):
    one, other = (rank["2 x 1"]["metrics"] for rank in ranks)
    for name in ("eval_loss", "eval_lens", "eval_lens/2-3", "eval_kd", "eval_cross_entropy"):
        assert one[name] == other[name] > 0
    summed = one["eval_lens"] + one["eval_kd"] + 0.5 * one["eval_cross_entropy"]
    assert one["eval_loss"] == pytest.approx(summed, rel=1e-5)


def test_each_process_may_count_its_own_tokens(ranks):
    """Without `average_tokens_across_devices` it is the mean of the processes' means."""
    apart, together = ranks[0]["own counts"], ranks[0]["2 x 1"]
    assert widest_gap(apart["weights"], ranks[1]["own counts"]["weights"]) == 0
    assert widest_gap(apart["weights"], together["weights"]) > 1e-4
    log = apart["log"]
    summed = log["lens"] + log["kd"] + 0.5 * log["cross_entropy"]
    assert log["loss"] == pytest.approx(summed, rel=1e-5)
    assert log["loss"] != pytest.approx(together["log"]["loss"], rel=1e-4)
