"""FSDP2 models: whether they are in pieces, and putting pieces away again.

Legend: D width, V vocabulary.
"""

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule


def is_in_pieces(model: nn.Module | None) -> bool:
    """Whether FSDP2 holds the model (`fully_shard`)."""
    return model is not None and any(isinstance(m, FSDPModule) for m in model.modules())


def put_away(model: nn.Module) -> None:
    """Frees what stayed gathered after a forward without gradients: final norm and head, [V, D].

    accelerate keeps them for the backward pass, which a frozen teacher does not have. The next
    forward gathers them again.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def any_process(model: nn.Module, wants: bool, device: torch.device) -> bool:
    """Whether any process wants to run a model in pieces, for which all of them must.

    Every process calls it; of a whole model each decides for itself.

    Args:
        device: of the tensors that processes exchange.
    """
    if not is_in_pieces(model):
        return wants
    flag = torch.tensor(int(wants), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
