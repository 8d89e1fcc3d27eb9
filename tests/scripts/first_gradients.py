"""Runs the runner's first window of a recipe and writes the student's gradients before the step.

Usage: [torchrun --standalone --nproc_per_node=2] first_gradients.py RECIPE OUT.pt
"""

import sys
from pathlib import Path

import torch

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.lens.discovery import unwrap
from distillens_plugin.losses.trained_parameters import loss_parameters
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training import trainer
from distillens_plugin.training.window import windows

recipe_path, out = sys.argv[1:]
recipe = load_recipe(recipe_path)
accelerator = make_accelerator(recipe, None)
experiment = build_experiment(recipe, accelerator, load_data(recipe))
box = experiment.box
box.pre_epoch_process(epoch=0)
window = next(windows(box.train_data_loader, box.grad_accum_step, accelerator))
# The step itself would clear the gradients.
trainer.apply_gradients = lambda box: False
result = trainer.Trainer(box, accelerator).step(window)
if accelerator.is_main_process:
    torch.save(
        {
            "gradients": {n: p.grad for n, p in unwrap(box.student_model).named_parameters()},
            "loss_gradients": {n: p.grad for n, p in loss_parameters(box.criterion).items()},
            "loss": result.loss,
            "values": result.values,
            "num_supervised": result.num_supervised,
            "num_rows": sum(len(batch["input_ids"]) for batch, _ in window.batches),
        },
        Path(out),
    )
accelerator.wait_for_everyone()
accelerator.end_training()
