"""ZeRO-2 through DeepSpeed: a run on two processes is the run that DDP gives."""

import pytest
import torch
from fsdp_on_cpu import ranks
from run_process import ENVIRONMENT, TWO_PROCESSES, change, distillens, records
from safetensors.torch import load_file
from tiny_run import tiny_recipe

WITHIN = 1e-5
ZERO2 = {
    "ACCELERATE_USE_CPU": "true",
    "DS_ACCELERATOR": "cpu",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
}


def test_losses_and_weights_are_those_of_ddp(tmp_path):
    pytest.importorskip("deepspeed", reason="the extra deepspeed")
    path = tiny_recipe(tmp_path)
    sizes = {"model_type": "gpt2", "n_layer": 2, "n_embd": 24, "n_head": 2, "n_positions": 256}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    change(path, "models.student_model.init.config", {**sizes, **no_dropout})
    change(path, "train.train_data_loader.kwargs.batch_size", 2)
    # 6 batches for each process: a window of four, and a partial one of two.
    change(path, "train.optimizer.grad_accum_step", 4)
    change(path, "train.optimizer.max_grad_norm", 0.1)
    change(path, "samples.num_rows", 0)
    change(path, "resumable", False)
    done = distillens(path, "--output_dir", tmp_path / "ddp", launcher=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr[-3000:]
    done = ranks(
        "zero_run.py", path, "--output_dir", tmp_path / "zero", environment={**ENVIRONMENT, **ZERO2}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = [records(tmp_path / name) for name in ("ddp", "zero")]
    assert [r["step"] for r in both[1] if "loss" in r] == [1, 2]
    for ddp, zero in zip(*both, strict=True):
        for name in ("loss", "grad_norm", "kd", "lens", "validation_loss", "lr"):
            assert (name in ddp) == (name in zero), name
            if name in ddp:
                assert zero[name] == pytest.approx(ddp[name], rel=WITHIN, abs=WITHIN), name
    ddp, zero = (
        load_file(tmp_path / name / "last" / "model.safetensors") for name in ("ddp", "zero")
    )
    assert ddp.keys() == zero.keys()
    for name, value in ddp.items():
        torch.testing.assert_close(zero[name], value, rtol=0, atol=WITHIN, msg=name)
