"""Trains small models with DistillLensTrainer, once for each case; every process saves its results.

Usage: torchrun --standalone --nproc_per_node=2 trainer_ranks.py OUT_FOLDER CASES
    CASES: JSON, a mapping of names to [batch size, accumulation, TrainingArguments as a mapping]
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from lens_trainer import trained_twice
from torch.nn.parallel import DistributedDataParallel

out, cases = sys.argv[1:]
saved = {}
for name, (batch, accumulation, changes) in json.loads(cases).items():
    trainer, saved[name] = trained_twice(Path(out), batch, accumulation, **changes)
    assert isinstance(trainer.model_wrapped, DistributedDataParallel)
    assert not isinstance(trainer.teacher_model, DistributedDataParallel)
torch.save(saved, Path(out) / f"rank{trainer.accelerator.process_index}.pt")
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
