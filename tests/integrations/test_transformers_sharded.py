"""DistillLensTrainer with models in pieces (FSDP2) on two processes: as one with whole ones."""

import json

import pytest
import torch
from fsdp_on_cpu import FSDP2, ranks
from lens_trainer import trained_twice, weights, widest_gap
from transformers import AutoModelForCausalLM

OWN = {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}
# Without arguments of its own, the Trainer does what accelerate's launcher says: fsdp2.yaml.
LAUNCHER = {**FSDP2, "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
CASES = {
    "launcher": (2, 1, {}),
    "own arguments, accumulation": (1, 2, OWN),
    "gpt2, clipped": (2, 1, {"family": "gpt2", "max_grad_norm": 0.5}),
    "gradient checkpointing": (2, 1, {"gradient_checkpointing": True}),
}
NAMES = ("loss", "lens", "lens/1-1", "lens/2-3", "kd", "cross_entropy")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The folder, and what each of two processes saved, by case."""
    folder = tmp_path_factory.mktemp("sharded")
    done = ranks("fsdp_trainer.py", folder, json.dumps(CASES), environment=LAUNCHER)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", [*CASES, "model_init", "one process reads"])
def test_weights_and_logs_are_those_of_one_process(tmp_path, sharded, case):
    folder, (one, other) = sharded
    given = CASES[case][2] if case in CASES else {}
    changes = {key: given[key] for key in ("family", "max_grad_norm") if key in given}
    trainer, alone = trained_twice(tmp_path, 4, 1, **changes)
    assert widest_gap(one[case]["weights"], alone["weights"]) < 1e-5
    for found in (one[case], other[case]):
        for name in NAMES:
            assert found["log"][name] == pytest.approx(alone["log"][name], rel=1e-5)
            evaluated = f"eval_{name}"
            assert found["metrics"][evaluated] == one[case]["metrics"][evaluated] > 0
    saved = AutoModelForCausalLM.from_pretrained(folder / case / "saved")
    assert widest_gap(weights(saved), weights(trainer.model)) < 1e-5
