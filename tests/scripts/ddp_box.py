"""Two gloo ranks train one box, built from the README's YAML; each writes its gradients to a file.

Usage: torchrun --standalone --nproc_per_node=2 ddp_box.py RECIPE TIED NORM OUT_FOLDER
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from accelerate import Accelerator
from boxes import build_box, load_box_recipe
from torch.nn.parallel import DistributedDataParallel

recipe_path, tied, norm, out = sys.argv[1:]
accelerator = Accelerator(cpu=True)
recipe = load_box_recipe(recipe_path)
lens = recipe["train"]["criterion"]["kwargs"]["sub_terms"]["lens"]["criterion"]["kwargs"]
lens["norm"] = norm
box = build_box(recipe, accelerator=accelerator, tied=tied == "tied")
assert isinstance(box.student_model, DistributedDataParallel), type(box.student_model)
box.pre_epoch_process(epoch=0)
batch, targets = next(iter(box.train_data_loader))
loss = box.forward_process(batch, targets)
accelerator.backward(loss)
gradients = {name: p.grad for name, p in box.student_model.module.named_parameters()}
torch.save(
    {"gradients": gradients, "row_ids": targets["row_ids"], "loss": loss.detach()},
    Path(out) / f"rank{accelerator.process_index}.pt",
)
accelerator.wait_for_everyone()
accelerator.end_training()
