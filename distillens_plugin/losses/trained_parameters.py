"""Parameters that belong to the loss: put into the optimizer, kept equal on all ranks, and saved.

torchdistill makes its optimizer from the models alone, and keeps loss terms in a plain dict, so
that `criterion.parameters()` is empty. `distillens.pre_epoch` calls `adopt`;
`distillens.post_forward` and our runner call `average_gradients` before a step.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distillens_plugin.losses.box import Box, trained_model
from distillens_plugin.losses.term import terms_of


def adopt(box: Box) -> None:
    """Builds what the terms train, and puts it into the optimizer; a second call changes nothing.

    Matrices join the optimizer's first group of parameters and vectors its last: with
    `distillens.adamw` those with and without weight decay. So they share learning rate, schedule,
    clipping and loss scaling with the student.
    """
    for weighted in terms_of(box.criterion).values():
        weighted.term.prepare(trained_model(box), getattr(box, "teacher_model", None))
    groups = box.optimizer.param_groups
    known = {id(p) for group in groups for p in group["params"]}
    for parameter in loss_parameters(box.criterion).values():
        if id(parameter) not in known:
            groups[0 if parameter.dim() >= 2 else -1]["params"].append(parameter)


def loss_parameters(criterion: object) -> dict[str, nn.Parameter]:
    """What the loss itself trains, by name: `mse.projections.0.weight`."""
    return {
        f"{name}.{inner}": parameter
        for name, weighted in terms_of(criterion).items()
        for inner, parameter in weighted.term.trained().items()
    }


def average_gradients(box: Box) -> None:
    """The mean over the ranks, as DDP takes it for the student. Call it before clipping."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return
    parameters = list(loss_parameters(box.criterion).values())
    if not parameters or distributed.get_world_size() == 1:
        return
    # A rank whose window has no supervised position has no gradient, and yet must take part.
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    sizes = [p.numel() for p in parameters]
    for parameter, mean in zip(parameters, flat.split(sizes), strict=True):
        parameter.grad = mean.view_as(parameter).clone()


def loss_state(criterion: object) -> dict[str, Tensor]:
    """The parameters of the loss as they are now, on the CPU."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in loss_parameters(criterion).items()
    }


def load_loss_state(criterion: object, state: Mapping[str, Tensor]) -> None:
    """Puts back what `loss_state` gave.

    Raises:
        ValueError: the state has other parameters than this criterion.
    """
    parameters = loss_parameters(criterion)
    if set(parameters) != set(state):
        raise ValueError(
            f"the loss has the parameters {sorted(parameters)}, but the state has {sorted(state)}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
