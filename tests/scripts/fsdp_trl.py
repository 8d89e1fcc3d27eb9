"""TRL's trainers with the lens under DDP, then with both models in pieces; each process saves both.

Usage: torchrun --standalone --nproc_per_node=2 fsdp_trl.py OUT_FOLDER
"""

import faulthandler
import random
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import fsdp_on_cpu
from accelerate.state import AcceleratorState
from trl_run import distillation_trainer, gkd_trainer, logged, prompts

from distillens_plugin.sharding.state import model_state

PIECES = {"fsdp": True, "fsdp_config": {"version": 2}, "max_grad_norm": 0.5}
out = Path(sys.argv[1])
saved = {}


def learnt(trainer):
    trainer.train()
    evaluated = trainer.evaluate()["eval_lens"] if trainer.eval_dataset is not None else None
    found = {
        "weights": model_state(trainer.model),
        "loss": logged(trainer, "loss"),
        "lens": logged(trainer, "lens"),
        "evaluated": evaluated,
        "wrapper": type(trainer.model_wrapped).__name__,
    }
    trainer.save_model(str(trainer.args.output_dir))
    return found


def distillation(folder, **settings):
    return distillation_trainer(
        folder,
        per_device_train_batch_size=2,
        max_steps=4,
        generation_kwargs={"do_sample": False},
        eval_dataset=prompts(),
        **settings,
    )


def gkd(folder, **settings):
    return gkd_trainer(folder, per_device_train_batch_size=2, max_steps=4, **settings)


def in_pieces(trainer):
    assert trainer.accelerator.is_fsdp2
    assert fsdp_on_cpu.is_sharded(trainer.teacher_model)
    found = learnt(trainer)
    assert fsdp_on_cpu.is_sharded(trainer.model)
    return found


faulthandler.dump_traceback_later(250, exit=True)
saved["distillation, DDP"] = learnt(distillation(out / "distillation/ddp", max_grad_norm=0.5))
saved["gkd, DDP"] = learnt(gkd(out / "gkd/ddp", lmbda=1.0, max_grad_norm=0.5))
fsdp_on_cpu.install()
AcceleratorState._reset_state()
saved["distillation, pieces"] = in_pieces(distillation(out / "distillation/pieces", **PIECES))
saved["gkd, pieces"] = in_pieces(gkd(out / "gkd/pieces", lmbda=1.0, **PIECES))
# Each process throws dice of its own, and yet all must generate in the same steps.
trainer = gkd(out / "gkd/dice", lmbda=0.5, seq_kd=True, **PIECES)
rank = trainer.accelerator.process_index
random.seed(rank)
saved["dice"] = in_pieces(trainer)
torch.save(saved, out / f"rank{rank}.pt")
torch.distributed.destroy_process_group()
