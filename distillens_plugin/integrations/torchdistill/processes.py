"""What torchdistill's boxes call around an epoch and a batch, with their faults fixed.

`default_post_forward_process` divides the loss in place, drops the last partial accumulation window
and clips without accelerate; the default pre-epoch process leaves a teacher in train mode.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from distillens_plugin.lens.probe import is_engine
from distillens_plugin.losses.box import Box, Loader, trained_model
from distillens_plugin.losses.trained_parameters import (
    adopt,
    average_gradients,
    follow_optimizer,
    loss_optimizer,
)
from distillens_plugin.sharding.pieces import is_in_pieces
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did."""

    grad_norm: Tensor
    skipped: bool = False


def pre_epoch(self: Box, epoch: int | None = None, **kwargs: object) -> None:
    """`pre_epoch_process: distillens.pre_epoch`: student in train mode, teacher in eval mode, a new
    order of batches; parameters of the loss join the optimizer.

    Args:
        epoch: number of the epoch, which decides the order of the batches.
    """
    # Not at the top: loading torchdistill registers this function (distillens_plugin/__init__.py).
    from torchdistill.core.util import clear_io_dict

    for name in ("teacher_io_dict", "student_io_dict", "model_io_dict"):
        clear_io_dict(getattr(self, name, {}))
    trained_model(self).train()
    teacher = getattr(self, "teacher_model", None)
    if teacher is not None and not self.teacher_updatable:
        teacher.eval()
    adopt(self)
    if epoch is not None:
        set_epoch(self.train_data_loader, epoch)


def set_epoch(loader: Loader, epoch: int) -> None:
    """Sets the epoch of every sampler of a (prepared) data loader."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    # accelerate shards a batch sampler by wrapping it, and sets only the innermost sampler's epoch.
    sampler = getattr(loader, "batch_sampler", None)
    while sampler is not None:
        for candidate in (sampler, getattr(sampler, "sampler", None)):
            if candidate is not None and hasattr(candidate, "set_epoch"):
                candidate.set_epoch(epoch)
        sampler = getattr(sampler, "batch_sampler", None)


def post_forward(
    self: Box, loss: Tensor, metrics: object = None, **kwargs: object
) -> StepReport | None:
    """`post_forward_process: distillens.post_forward`: backward, and a step where a window ends.

    A window is `grad_accum_step` batches, or what is left at the end of an epoch. Each loss is a
    mean over its batch; the window's gradient is the mean of those. Our runner instead normalises
    by the supervised tokens of the window over all ranks.

    Returns:
        A report if the optimiser stepped, else None.
    """
    per_epoch = len(self.train_data_loader)
    self.stage_grad_count += 1
    batch = (self.stage_grad_count - 1) % per_epoch + 1
    window_start = (batch - 1) // self.grad_accum_step * self.grad_accum_step
    window = min(self.grad_accum_step, per_epoch - window_start)
    backward(self, loss / window, ends_window=batch - window_start == window)
    if batch - window_start == window:
        return step(self)
    return None


def backward(box: Box, loss: Tensor, *, ends_window: bool = True) -> None:
    """Backward, through accelerate if there is one (it scales the loss in fp16).

    Args:
        ends_window: the optimiser steps next.
    """
    engine = _engine(box)
    if engine is not None:
        # accelerate would step at once, before anyone has looked whether the loss is finite.
        engine.set_gradient_accumulation_boundary(ends_window)
        engine.backward(loss)
    elif box.accelerator is None:
        loss.backward()
    else:
        box.accelerator.backward(loss)


def step(box: Box) -> StepReport:
    """Clip, optimiser step, schedule step; gradients are cleared."""
    average_gradients(box)
    grad_norm = clip(box)
    return StepReport(grad_norm, apply_gradients(box))


def apply_gradients(box: Box) -> bool:
    """Optimiser and schedule step; gradients are cleared.

    Returns:
        Whether the step was skipped: fp16's scaler skips it if a gradient overflowed, and then the
        schedule waits for a real one.
    """
    follow_optimizer(box)
    for optimizer in optimizers_of(box):
        optimizer.step()
        optimizer.zero_grad()
    skipped = box.accelerator is not None and box.accelerator.optimizer_step_was_skipped
    if box.lr_scheduler is not None and box.scheduling_step > 0 and not skipped:
        advance(box.lr_scheduler)
    return skipped


def advance(scheduler: LRScheduler) -> None:
    """One step of the schedule.

    Raises:
        DistillensError: torch's own schedules read some of their kwargs only now, such as a
            step_size of 0.
    """
    try:
        scheduler.step()
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise DistillensError(
            f"train.scheduler.kwargs: the schedule cannot take a step ({error}); correct them"
        ) from error


def optimizers_of(box: Box) -> list[Optimizer]:
    """The box's, and the loss's own where there is one."""
    own = loss_optimizer(box)
    return [box.optimizer] if own is None else [box.optimizer, own]


def clip(box: Box) -> Tensor:
    """Clips the gradient to `max_grad_norm` if there is one; returns its norm before."""
    groups = [group for optimizer in optimizers_of(box) for group in optimizer.param_groups]
    parameters = [p for group in groups for p in group["params"]]
    engine = _engine(box)
    if engine is not None:
        # DeepSpeed clips and steps at once; it takes no step with a gradient that is not finite.
        engine.step()
        return torch.as_tensor(engine.get_global_grad_norm())
    if is_in_pieces(trained_model(box)):
        return _clip_pieces(parameters, box.max_grad_norm)
    if box.max_grad_norm is None:
        if box.accelerator is not None:
            # fp16 scales the loss, and with it the norm; clipping undoes that by itself.
            box.accelerator.unscale_gradients()
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if box.accelerator is None:
        return torch.nn.utils.clip_grad_norm_(parameters, box.max_grad_norm)
    return box.accelerator.clip_grad_norm_(parameters, box.max_grad_norm)


def _engine(box: Box) -> Any | None:
    """DeepSpeed's engine, if the trained model is in one."""
    model = trained_model(box)
    return model if is_engine(model) else None


def _clip_pieces(parameters: list[Tensor], max_norm: float | None) -> Tensor:
    """The same by torch alone: accelerate's looks for a model with these parameters in this order.

    A norm over pieces and whole tensors together is that of their two norms.
    """
    kinds = [
        [p for p in parameters if p.grad is not None and isinstance(p, DTensor) is pieces]
        for pieces in (True, False)
    ]
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])
        for kind in kinds
        if kind
    ]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total = torch.linalg.vector_norm(torch.stack(whole))
    if max_norm is not None:
        for kind in kinds:
            torch.nn.utils.clip_grads_with_norm_(kind, max_norm, total)
    return total
