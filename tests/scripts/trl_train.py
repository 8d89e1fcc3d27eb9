"""Trains with two of TRL's trainers and the lens; each process writes what it has learnt.

Usage: trl_train.py OUT_FOLDER BATCH_SIZE
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from trl_run import learnt_with_distillation, learnt_with_gkd

out, batch_size = Path(sys.argv[1]), int(sys.argv[2])
rank, distillation = learnt_with_distillation(out, batch_size)
_, gkd = learnt_with_gkd(out, batch_size)
torch.save({"distillation": distillation, "gkd": gkd}, out / f"rank{rank}.pt")
torch.distributed.destroy_process_group()
