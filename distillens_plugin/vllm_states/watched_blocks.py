"""Hooks on a vLLM model's blocks. Legend: T tokens of a step, K layers, D width."""

from typing import TypeGuard

import torch
from torch import Tensor, nn


class WatchedBlocks:
    """Records the residual stream after chosen blocks, once per forward pass.

    Args:
        model: loaded by vLLM, run eagerly.
        layers: ascending; k is after k blocks, 0 before the first.
        num_blocks: of the model.
    Raises:
        ValueError: the blocks cannot be found; vLLM prints it and does not start.
    """

    def __init__(self, model: nn.Module, layers: list[int], num_blocks: int) -> None:
        blocks = _blocks(model, num_blocks)
        self._layers = layers
        self._seen: dict[int, Tensor] = {}
        blocks[0].register_forward_pre_hook(self._before, with_kwargs=True)
        for number, block in enumerate(blocks, start=1):
            if number in layers:
                block.register_forward_hook(self._after(number))

    def _before(self, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if 0 in self._layers:
            values = [*args, *kwargs.values()]
            # Positions are integers, and the residual is None before the first block.
            self._seen[0] = _total([x for x in values if _is_state(x)])

    def _after(self, number: int) -> "_Hook":
        return _Hook(self._seen, number)

    def take(self) -> Tensor | None:
        """States [T, K, D] of the pass since the last call, on the CPU; None: there was none."""
        seen = dict(self._seen)
        self._seen.clear()
        if len(seen) < len(self._layers):
            return None
        return torch.stack([seen[k] for k in self._layers], dim=1).cpu()


class _Hook:
    def __init__(self, seen: dict[int, Tensor], number: int) -> None:
        self._seen, self._number = seen, number

    def __call__(self, _: nn.Module, __: object, output: object) -> None:
        # A block gives its states, or what it adds and the residual that this is added to.
        values = output if isinstance(output, tuple) else (output,)
        self._seen[self._number] = _total([x for x in values if _is_state(x)])


def _is_state(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 2


def _total(parts: list[Tensor]) -> Tensor:
    if not 1 <= len(parts) <= 2:
        raise ValueError(f"a block gives {len(parts)} tensors of states; use --model hf")
    # A copy: later blocks may write into the residual in place.
    return parts[0] + parts[1] if len(parts) == 2 else parts[0].clone()


def _blocks(model: nn.Module, num_blocks: int) -> nn.ModuleList:
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_blocks
    ]
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__}: found {len(found)} lists of {num_blocks} blocks, expected "
            "one; use --model hf"
        )
    return found[0]
