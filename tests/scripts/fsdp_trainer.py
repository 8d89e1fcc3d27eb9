"""Trains small models with DistillLensTrainer, both in pieces; each process saves its results.

Usage: torchrun --standalone --nproc_per_node=2 fsdp_trainer.py OUT_FOLDER CASES
    CASES: JSON, a mapping of names to [batch size, accumulation, TrainingArguments as a mapping];
        `model_init` and `one process reads` are added.
"""

import faulthandler
import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import fsdp_on_cpu
from lens_trainer import pair, trained_twice
from transformers import AutoModelForCausalLM

from distillens_plugin.sharding.state import model_state

out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
fsdp_on_cpu.install()
saved = {}


def train(name, batch, accumulation, **changes):
    faulthandler.dump_traceback_later(100, exit=True)
    trainer, found = trained_twice(out / name, batch, accumulation, **changes)
    assert trainer.accelerator.is_fsdp2
    for model in (trainer.model, trainer.teacher_model):
        assert fsdp_on_cpu.is_sharded(model)
    saved[name] = {**found, "weights": model_state(trainer.model)}
    trainer.save_model(str(out / name / "saved"))
    trainer.accelerator.free_memory()
    faulthandler.cancel_dump_traceback_later()
    return trainer.accelerator


for name, (batch, accumulation, changes) in cases.items():
    accelerator = train(name, batch, accumulation, **changes)

train("model_init", 2, 1, models=(None, pair()[1]), given={"model_init": lambda: pair()[0]})

if accelerator.is_main_process:
    for name, model in zip(("student", "teacher"), pair(), strict=True):
        model.save_pretrained(out / name)
accelerator.wait_for_everyone()
# Only the first process of a machine then reads weights.
os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
models = [AutoModelForCausalLM.from_pretrained(out / name) for name in ("student", "teacher")]
train("one process reads", 2, 1, models=tuple(models))

torch.save(saved, out / f"rank{accelerator.process_index}.pt")
accelerator.wait_for_everyone()
accelerator.end_training()
