"""Makes a readout and a head whole that FSDP2 holds in pieces.

After a forward they are whole in accelerate's layout, whose unit of final norm and head is not put
away. Their gradients then leave by FSDP's own reduce-scatter, since autograd sees the parameters
that FSDP gathered. (`full_tensor` would give other tensors, and wrong gradients.)
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def in_pieces(module: nn.Module) -> bool:
    """Whether a parameter of the module is a DTensor."""
    return any(hasattr(parameter, "placements") for parameter in module.parameters())


def gather(model: nn.Module, paths: Iterable[str]) -> None:
    """Gathers the modules at these paths of a plain model; nothing happens where they are whole.

    Every rank must call it, in the same order as its other forwards and gatherings.

    Raises:
        DistillensError: no FSDP2 unit holds one of them.
    """
    for path in paths:
        module = model.get_submodule(path)
        if not in_pieces(module):
            continue
        owner = _owner(model, path)
        if owner is not None:
            owner.unshard()
        if owner is None or in_pieces(module):
            raise DistillensError(
                f"{type(model).__name__}.{path} is in pieces (DTensor) that FSDP2 does not hold, "
                "so the lens cannot read it; shard the model by accelerate's FSDP2 "
                "(recipes/accelerate/fsdp2.yaml) or fully_shard"
            )


def _owner(model: nn.Module, path: str) -> "FSDPModule | None":
    """The innermost FSDP2 unit around a module; its parameters may belong to the root's."""
    # Not at the top: it takes a while to load, and few models are in pieces.
    from torch.distributed.fsdp import FSDPModule

    names = path.split(".")
    for length in range(len(names), -1, -1):
        module = model.get_submodule(".".join(names[:length]))
        if isinstance(module, FSDPModule):
            return module
    return None
