"""An attached lens on two models in pieces; the first process saves whole gradients.

Usage: torchrun --standalone --nproc_per_node=2 fsdp_attached.py OUT.pt
"""

import faulthandler
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import fsdp_on_cpu
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from pair import attached_loss, pair
from torch.distributed.fsdp import fully_shard

from distillens_plugin import AttachedLens
from eval_harness.errors import DistillensError

faulthandler.dump_traceback_later(120, exit=True)
fsdp_on_cpu.install()
accelerator = Accelerator()
assert accelerator.is_fsdp2


def by_accelerate(model):
    fsdp2_prepare_model(accelerator, model)


def by_hand(model, **root):
    for module in list(model.modules()):
        if isinstance(module, torch.nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(model, **root)


def put_away(model):
    by_hand(model, reshard_after_forward=True)


def gradients_in(shard, *, headless, **kind):
    """Of this process's share of the rows, in the second of two steps; whole."""
    student, teacher = pair(**kind)
    lens = AttachedLens(
        student, teacher, {"auto": 2}, norm="final", kd="fkl", cross_entropy=0.5, headless=headless
    )
    for model in (student, teacher):
        shard(model)
        assert fsdp_on_cpu.is_sharded(model)
    for _ in range(2):
        student.zero_grad()
        attached_loss(lens, student, teacher, accelerator.process_index, 2).backward()
    return {name: p.grad.full_tensor() for name, p in student.named_parameters()}


saved = {
    "accelerate, tied": gradients_in(by_accelerate, headless=True, name="llama", tied=True),
    "accelerate, untied": gradients_in(by_accelerate, headless=True, name="llama", tied=False),
    "fully_shard": gradients_in(by_hand, headless=False, name="llama", tied=False),
    "head put away": gradients_in(put_away, headless=True, name="llama", tied=True),
}

student, teacher = pair()
by_accelerate(student)
try:
    AttachedLens(student, teacher, {"auto": 2})
except DistillensError as error:
    saved["refusal"] = str(error)
if accelerator.is_main_process:
    torch.save(saved, sys.argv[1])
accelerator.wait_for_everyone()
accelerator.end_training()
