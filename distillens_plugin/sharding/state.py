"""Whole states of models and optimisers that FSDP2 has sharded, and the way back.

A state has the form that torch gives without sharding: the same names, the same numbers of
parameters, whole tensors. So a run may go on with other shards, or with none. What is not sharded
passes through as it is.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from distillens_plugin.sharding.pieces import is_in_pieces


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's `state_dict`, whole; tied weights are one tensor under each of their names.

    Every process calls it.

    Returns:
        Of a sharded model: on the CPU of the first process, and empty on the others.
    """
    if not is_in_pieces(model):
        return model.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = cast(dict[str, Tensor], get_model_state_dict(model, options=options))
    if not state:
        return {}
    for name, first in tied_names(model).items():
        state[name] = state[first]
    return state


def load_model_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts back what `model_state` gave on the first process; each process takes its own part.

    Raises:
        RuntimeError: names or shapes are others; nothing has been exchanged between processes.
    """
    own = model.state_dict() if is_in_pieces(model) else {}
    model.load_state_dict({name: _like(value, own.get(name)) for name, value in state.items()})


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's `state_dict` with whole tensors; every process calls it.

    Returns:
        What was sharded is on the CPU of the first process, and None on the others.
    """
    keep = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    whole: dict[str, Any] = _whole(optimizer.state_dict(), keep)
    return whole


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Puts back what `optimizer_state` gave on the first process.

    Raises:
        ValueError: it has other groups of parameters.
    """
    # torch numbers the parameters through all groups.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbered = dict(enumerate(parameters))
    parts = {
        number: {
            # What has another shape, such as a count of steps, is the same on every process.
            name: _like(value, numbered.get(number))
            if _has_shape(value, numbered.get(number))
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def tied_names(model: nn.Module) -> dict[str, str]:
    """The name of each parameter that has been named before, and its first name."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            found[name] = known
    return found


def _whole(value: Any, keep: bool) -> Any:
    if isinstance(value, DTensor):
        # All processes take part in gathering, one tensor at a time.
        tensor = value.full_tensor()
        return tensor.cpu() if keep else None
    if isinstance(value, dict):
        return {key: _whole(item, keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_whole(item, keep) for item in value)
    return value


def _has_shape(value: Any, parameter: Tensor | None) -> bool:
    return isinstance(value, Tensor) and parameter is not None and value.shape == parameter.shape


def _like(value: Tensor, target: Tensor | None) -> Tensor:
    """Sharded as the target is; the value itself if the target is whole."""
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    if value.shape != target.shape:
        raise RuntimeError(f"found a tensor of {list(value.shape)}, expected {list(target.shape)}")
    # Each process has the whole value (a file that all of them map): nothing is sent.
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
