"""Parameters that belong to the loss: put into the optimizer, kept equal on all ranks, and saved.

torchdistill makes its optimizer from the models alone, and keeps loss terms in a plain dict, so
that `criterion.parameters()` is empty. `distillens.pre_epoch` calls `adopt`;
`distillens.post_forward` and our runner call `average_gradients` before a step.

Beside a model in pieces (FSDP2) these parameters stay whole on every rank. One optimizer cannot
hold both, as torch's fused steps and state dicts take tensors of one kind; so they get one of their
own, which follows the model's.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distillens_plugin.lens.probe import is_engine
from distillens_plugin.losses.box import Box, trained_model
from distillens_plugin.losses.projection import link_projections
from distillens_plugin.losses.term import terms_of
from distillens_plugin.sharding.pieces import is_in_pieces
from eval_harness.errors import DistillensError


def adopt(box: Box) -> None:
    """Builds what the terms train, and puts it into the optimizer; a second call changes nothing.

    Matrices join the optimizer's first group of parameters. Vectors join the last one without
    weight decay or with the student's own vectors; beside a student without any, as one with LoRA,
    they get a group of their own without decay. So they share learning rate, schedule, clipping and
    loss scaling with the student. Beside a student in pieces they join groups like these in
    `box.loss_optimizer`.
    """
    terms = terms_of(box.criterion)
    link_projections(terms)
    for weighted in terms.values():
        weighted.term.prepare(trained_model(box), getattr(box, "teacher_model", None))
    parameters = list(loss_parameters(box.criterion).values())
    if parameters and is_engine(trained_model(box)):
        raise DistillensError(
            "the loss trains parameters of its own (projections), which DeepSpeed's optimizer "
            "cannot take in; set projection: none, or launch with recipes/accelerate/fsdp2.yaml"
        )
    if is_in_pieces(trained_model(box)):
        if parameters and loss_optimizer(box) is None:
            box.loss_optimizer = _like(box.optimizer, parameters)
        return
    groups = box.optimizer.param_groups
    known = {id(p) for group in groups for p in group["params"]}
    for parameter in parameters:
        if id(parameter) not in known:
            group = _group_for(parameter, groups)
            if any(group is one for one in groups):
                group["params"].append(parameter)
            else:
                box.optimizer.add_param_group({**group, "params": [parameter]})
                _schedule_one_more(getattr(box, "lr_scheduler", None))


def loss_optimizer(box: Box) -> Optimizer | None:
    """The optimizer of the loss's own parameters, where the model's cannot hold them."""
    return getattr(box, "loss_optimizer", None)


def follow_optimizer(box: Box) -> None:
    """Gives the loss's own optimizer the learning rates (and decay) that the schedule has set."""
    own = loss_optimizer(box)
    if own is None:
        return
    for group in own.param_groups:
        leader = _group_for(group["params"][0], box.optimizer.param_groups)
        group.update({key: value for key, value in leader.items() if key != "params"})


def _group_for(parameter: Tensor, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The group of an optimizer that a parameter belongs in, or what a new one for it holds."""
    if parameter.dim() >= 2:
        return groups[0]
    for group in reversed(groups):
        if not group.get("weight_decay") or any(p.dim() < 2 for p in group["params"]):
            return group
    return {**groups[-1], "weight_decay": 0.0}


def _schedule_one_more(scheduler: Any) -> None:
    """A schedule was made for the groups there were; a new one follows the last of them."""
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    for name in ("base_lrs", "lr_lambdas", "min_lrs", "max_lrs"):
        if by_group := getattr(scheduler, name, None):
            by_group.append(by_group[-1])
    for inner in getattr(scheduler, "_schedulers", ()):
        _schedule_one_more(inner)


def _like(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Optimizer:
    """An optimizer of the same kind and settings, for other parameters."""
    leader: Any = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    groups = []
    for are_matrices in (True, False):
        own = [parameter for parameter in parameters if (parameter.dim() >= 2) is are_matrices]
        if own:
            groups.append({**_group_for(own[0], leader.param_groups), "params": own})
    accepted = inspect.signature(type(leader)).parameters
    settings = {key: value for key, value in leader.defaults.items() if key in accepted}
    made: Optimizer = type(leader)(groups, **settings)
    return made


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
