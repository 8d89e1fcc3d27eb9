"""Walks cases of `sharded_cases`, both models in pieces; the first process saves the gradients.

Each case has 60 s: a process that waits for another ends all of them, with its traceback.

Usage: torchrun --standalone --nproc_per_node=2 fsdp_gradients.py OUT.pt CASE,CASE,...
"""

import faulthandler
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import fsdp_on_cpu
import torch
from accelerate import Accelerator
from sharded_cases import CASES, gradients_of

out, names = sys.argv[1:]
fsdp_on_cpu.install()
accelerator = Accelerator()
assert accelerator.is_fsdp2
saved = {}
for name in names.split(","):
    faulthandler.dump_traceback_later(60, exit=True)
    saved[name] = gradients_of(CASES[name], accelerator, sharded=True)
    accelerator.free_memory()
    faulthandler.cancel_dump_traceback_later()
if accelerator.is_main_process:
    torch.save(saved, out)
accelerator.wait_for_everyone()
accelerator.end_training()
