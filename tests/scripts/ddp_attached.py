"""Two gloo ranks: an attached lens under DDP; each rank writes its gradients to a file.

Usage: torchrun --standalone --nproc_per_node=2 ddp_attached.py before|after HEADLESS OUT_FOLDER
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from pair import batch, gradients, pair, run_both
from torch.nn.parallel import DistributedDataParallel

from distillens_plugin import AttachedLens

when, headless, out = sys.argv[1:]
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
student, teacher = pair()
wrapped = DistributedDataParallel(student) if when == "before" else student
# Without KD and cross-entropy the top blocks and the head's rows come from the lens alone.
lens = AttachedLens(wrapped, teacher, {"auto": 2}, norm="final", headless=headless == "true")
if when == "after":
    wrapped = DistributedDataParallel(student)
ids, labels = batch(rows=4)
ids, labels = ids[rank::2], labels[rank::2]
if rank == 1:
    labels[1] = -100
count = torch.tensor(float((labels[:, 1:] != -100).sum()))
torch.distributed.all_reduce(count)
total = torch.zeros(())
for _ in range(2):
    run_both(wrapped, teacher, ids)
    # DDP takes the mean over the ranks.
    loss = lens.loss(labels, num_items_in_batch=count / 2)
    loss.backward()
    found = gradients(student)
    total = loss.detach().clone()
torch.distributed.all_reduce(total)
torch.save({"gradients": found, "loss": total / 2}, Path(out) / f"rank{rank}.pt")
torch.distributed.destroy_process_group()
