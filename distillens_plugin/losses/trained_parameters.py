"""Parameters that belong to the loss: into the optimizer, equal on all ranks, and saved.

torchdistill makes its optimizer from the models alone, and keeps loss terms in a plain dict, so
that `criterion.parameters()` is empty. `distillens.pre_epoch` calls `adopt`;
`distillens.post_forward` and our runner call `average_gradients` before a step.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.lens.discovery import unwrap
from distillens_plugin.lens.forward import reader_of
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.probe import hidden_states_of, trace_forward
from distillens_plugin.losses.hidden import ProjectedTerm


def adopt(box: Any) -> None:
    """Builds what the terms train, and puts it into the optimizer; a second call changes nothing.

    Matrices join the optimizer's first group of parameters and vectors its last: with
    `distillens.adamw` those with and without weight decay. So they share learning rate, schedule,
    clipping and loss scaling with the student.
    """
    for term, _ in _terms(box.criterion).values():
        if isinstance(term, ProjectedTerm) and term.projections is None:
            student, teacher = box.student_model, box.teacher_model
            pairs = term.pairs(
                reader_of(student).lens.num_layers, reader_of(teacher).lens.num_layers
            )
            widths = zip(
                _widths(student, [a for a, _ in pairs]),
                _widths(teacher, [b for _, b in pairs]),
                strict=True,
            )
            term.build(list(widths), next(student.parameters()).device)
    groups = box.optimizer.param_groups
    known = {id(p) for group in groups for p in group["params"]}
    for parameter in loss_parameters(box.criterion).values():
        if id(parameter) not in known:
            groups[0 if parameter.dim() >= 2 else -1]["params"].append(parameter)


def loss_parameters(criterion: Any) -> dict[str, nn.Parameter]:
    """What the loss itself trains, by name: `mse.projections.0.weight`."""
    return {
        f"{name}.{inner}": parameter
        for name, (term, _) in _terms(criterion).items()
        for inner, parameter in term.named_parameters()
        if parameter.requires_grad
    }


def average_gradients(box: Any) -> None:
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


def loss_state(criterion: Any) -> dict[str, Tensor]:
    """The parameters of the loss as they are now, on the CPU."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in loss_parameters(criterion).items()
    }


def load_loss_state(criterion: Any, state: Mapping[str, Tensor]) -> None:
    """Puts back what `loss_state` gave.

    Raises:
        ValueError: other parameters than those of this criterion.
    """
    parameters = loss_parameters(criterion)
    if set(parameters) != set(state):
        raise ValueError(f"the loss has {sorted(parameters)}, the state {sorted(state)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def _terms(criterion: Any) -> dict[str, Any]:
    """A high-level loss of somebody else's may have no terms."""
    return getattr(criterion, "term_dict", {})


def _widths(model: nn.Module, layers: list[Layer]) -> list[int]:
    """Width of each layer's hidden states; a module path is looked at in a probe forward."""
    width = reader_of(model).lens.anatomy.width
    if all(isinstance(layer, int) for layer in layers):
        return [width] * len(layers)
    trace = trace_forward(unwrap(model))
    widths = []
    for layer in layers:
        calls = trace.of(layer) if isinstance(layer, str) else []
        hidden = hidden_states_of(calls[0].output) if calls else None
        widths.append(width if hidden is None else hidden.shape[-1])
    return widths
