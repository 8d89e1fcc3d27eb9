"""Trains a small model with DistillLensTrainer under ZeRO-2; each process saves its results.

Usage: torchrun --standalone --nproc_per_node=2 zero_trainer.py OUT_FOLDER
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import zero_on_cpu
from lens_trainer import trained_twice

out = Path(sys.argv[1])
zero_on_cpu.install()
trainer, found = trained_twice(out, 1, 2)
assert zero_on_cpu.is_zero2(trainer.model_wrapped)
trainer.save_model(str(out / "saved"))
torch.save(found, out / f"rank{trainer.accelerator.process_index}.pt")
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
