"""Shims for faults in what we build on; each states when it can be removed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import nn


def restore_use_fp16() -> None:
    """Gives accelerate's state back `use_fp16`, which torchdistill's boxes still read.

    `DistillationBox` with an accelerator and a frozen teacher reads `accelerator.state.use_fp16`,
    gone since accelerate 1.0, to decide whether to halve the teacher. Remove this when
    torchdistill's core/distillation.py no longer names `use_fp16`.
    """
    if not hasattr(AcceleratorState, "use_fp16"):
        AcceleratorState.use_fp16 = property(lambda state: state.mixed_precision == "fp16")


@contextmanager
def staying_put(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keeps torchdistill from moving a model to this device, whole, before it is sharded.

    `wrap_model` and the box move both models, so that a device would have to hold at once what is
    then spread over many. Remove this when a box can be told to leave a model where it is.
    """
    move = model.to

    def to(*args: Any, **kwargs: Any) -> nn.Module:
        return model if args and args[0] == device else move(*args, **kwargs)

    vars(model)["to"] = to
    try:
        yield
    finally:
        del vars(model)["to"]
