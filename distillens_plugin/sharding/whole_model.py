"""A whole copy of a sharded model, to be saved or merged on one process."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from distillens_plugin.sharding.pieces import is_in_pieces
from distillens_plugin.sharding.state import tied_names

Model = TypeVar("Model", bound=nn.Module)


def whole_model(model: Model, state: Mapping[str, Tensor]) -> Model:
    """The model itself if it is not sharded; otherwise a copy on the CPU, with these weights.

    The copy has the class, configuration and adapter of the original, and no hooks. The process
    that has the state makes it alone.

    Args:
        model: unwrapped; a transformers model or a PeftModel.
        state: of `model_state`; the copy takes its tensors, and no memory beside them.
    """
    if not is_in_pieces(model):
        return model
    # Weights take no memory until they get those of the state; buffers are made as always.
    with init_empty_weights(include_buffers=False):
        whole: Any = _empty_copy(model)
    whole.load_state_dict(state, assign=True)
    for name, first in tied_names(model).items():
        parent, _, leaf = name.rpartition(".")
        setattr(whole.get_submodule(parent), leaf, whole.get_parameter(first))
    return whole  # type: ignore[no-any-return]


def _empty_copy(model: Any) -> nn.Module:
    if hasattr(model, "get_base_model"):
        from peft import get_peft_model

        (adapter,) = model.peft_config.values()
        with warnings.catch_warnings():
            # What peft has to say, it said of the original.
            warnings.simplefilter("ignore")
            copied = get_peft_model(_empty_copy(model.get_base_model()), copy.deepcopy(adapter))
        # peft names the base after the copy's own path.
        copied.peft_config["default"] = copy.deepcopy(adapter)
        return copied
    kind: Any = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    plain = kind(copy.deepcopy(model.config))
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.train(model.training)
