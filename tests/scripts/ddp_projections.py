"""Two gloo ranks train a box with projections; each writes their gradients and what they became.

Usage: torchrun --standalone --nproc_per_node=2 ddp_projections.py RECIPE OUT_FOLDER
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from accelerate import Accelerator
from boxes import build_box, load_box_recipe

from distillens_plugin.integrations.torchdistill import processes
from distillens_plugin.losses.trained_parameters import loss_parameters

recipe_path, out = sys.argv[1:]
accelerator = Accelerator(cpu=True)
# Ranks whose global generators differ must still make the same projections.
torch.manual_seed(accelerator.process_index)
box = build_box(load_box_recipe(recipe_path), accelerator=accelerator)
gradients: dict[str, torch.Tensor] = {}
row_ids: list[str] = []
clip = processes.clip


def keep_and_clip(box):
    if not gradients:
        gradients.update({n: p.grad.clone() for n, p in loss_parameters(box.criterion).items()})
    return clip(box)


processes.clip = keep_and_clip
for epoch in range(2):
    box.pre_epoch_process(epoch=epoch)
    for batch, targets in box.train_data_loader:
        row_ids = row_ids or targets["row_ids"]
        box.post_forward_process(loss=box.forward_process(batch, targets))
after = {n: p.detach() for n, p in loss_parameters(box.criterion).items()}
after |= {n: p.detach() for n, p in box.student_model.module.named_parameters()}
torch.save(
    {"gradients": gradients, "row_ids": row_ids, "after": after},
    Path(out) / f"rank{accelerator.process_index}.pt",
)
accelerator.wait_for_everyone()
accelerator.end_training()
