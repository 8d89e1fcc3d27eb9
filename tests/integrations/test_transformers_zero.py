"""DistillLensTrainer under DeepSpeed's ZeRO-2 on two processes: as one process."""

import pytest
import torch
from fsdp_on_cpu import ranks
from lens_trainer import trained_twice, weights, widest_gap
from transformers import AutoModelForCausalLM
from zero_on_cpu import ZERO2


def test_weights_and_logs_are_those_of_one_process(tmp_path):
    pytest.importorskip("deepspeed", reason="the extra deepspeed")
    done = ranks("zero_trainer.py", tmp_path, environment=ZERO2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    trainer, alone = trained_twice(tmp_path / "alone", 4, 1)
    assert widest_gap(one["weights"], other["weights"]) == 0
    assert widest_gap(one["weights"], alone["weights"]) < 1e-5
    for name in ("loss", "grad_norm", "lens", "lens/1-1", "lens/2-3", "kd", "cross_entropy"):
        assert one["log"][name] == pytest.approx(alone["log"][name], rel=1e-5)
    for name in ("eval_loss", "eval_lens", "eval_kd"):
        assert one["metrics"][name] == other["metrics"][name] > 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert widest_gap(weights(saved), weights(trainer.model)) < 1e-5
