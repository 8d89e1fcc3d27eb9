"""AdamW without decay on biases and norms, and schedules with warm-up and a floor."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def adamw(
    module: nn.Module, lr: float, weight_decay: float = 0.01, **kwargs: Any
) -> torch.optim.AdamW:
    """AdamW whose weight decay leaves out biases and norms: every parameter with fewer than 2 axes.

    Args:
        module: what to train. torchdistill's optimizer section needs `filters_params: false`, since
            torchdistill's filter gives one list of parameters instead of a module.
        lr, weight_decay, kwargs: of torch.optim.AdamW.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, **kwargs)


def _schedule(
    optimizer: Optimizer,
    *,
    num_steps: int,
    warmup_steps: int,
    min_lr: float,
    shape: Callable[[float], float],
) -> LambdaLR:
    """Linear warm-up to each group's lr, then to `min_lr` along `shape` (1 to 0 over [0, 1])."""

    def factor_for(peak: float) -> Callable[[int], float]:
        floor = min(min_lr / peak, 1.0) if peak > 0 else 0.0

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
            return floor + (1 - floor) * shape(min(1.0, progress))

        return factor

    return LambdaLR(optimizer, [factor_for(group["lr"]) for group in optimizer.param_groups])


def cosine(
    optimizer: Optimizer, num_steps: int, warmup_steps: int = 0, min_lr: float = 0.0
) -> LambdaLR:
    """Warm-up, then half a cosine from the optimizer's lr to `min_lr` at `num_steps`."""
    return _schedule(
        optimizer,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        min_lr=min_lr,
        shape=lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    )


def linear(
    optimizer: Optimizer, num_steps: int, warmup_steps: int = 0, min_lr: float = 0.0
) -> LambdaLR:
    """Warm-up, then a straight line from the optimizer's lr to `min_lr` at `num_steps`."""
    return _schedule(
        optimizer,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        min_lr=min_lr,
        shape=lambda x: 1 - x,
    )


def constant(optimizer: Optimizer, num_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Warm-up, then the optimizer's lr to the end."""
    return _schedule(
        optimizer, num_steps=num_steps, warmup_steps=warmup_steps, min_lr=0.0, shape=lambda x: 1.0
    )
