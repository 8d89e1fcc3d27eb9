"""Trains small models with DistillLensTrainer, both in pieces; each process saves its results.

Usage: torchrun --standalone --nproc_per_node=2 fsdp_trainer.py OUT_FOLDER CASES
    CASES: JSON, a mapping of names to [batch size, accumulation, TrainingArguments as a mapping]
"""

import faulthandler
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import fsdp_on_cpu
from lens_trainer import trained_twice

from distillens_plugin.sharding.state import model_state

out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
fsdp_on_cpu.install()
saved = {}
for name, (batch, accumulation, changes) in cases.items():
    faulthandler.dump_traceback_later(100, exit=True)
    trainer, found = trained_twice(out / name, batch, accumulation, **changes)
    assert trainer.accelerator.is_fsdp2
    for model in (trainer.model, trainer.teacher_model):
        assert fsdp_on_cpu.is_sharded(model)
    found["weights"] = model_state(trainer.model)
    saved[name] = found
    trainer.save_model(str(out / name / "saved"))
    trainer.accelerator.free_memory()
    faulthandler.cancel_dump_traceback_later()
torch.save(saved, out / f"rank{trainer.accelerator.process_index}.pt")
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
