"""Residual streams of a model outside torchdistill's boxes, whose hooks record them in training."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from distillens_plugin.lens.discovery import hidden_states_of, unwrap
from distillens_plugin.lens.layers import Layer, layer_to_hook


@contextmanager
def recorded_streams(
    model: nn.Module, layers: Iterable[Layer], blocks_path: str
) -> Iterator[dict[Layer, Tensor]]:
    """Records these layers during a forward pass inside the `with`.

    Args:
        layers: layer numbers or module paths.
        blocks_path: `Anatomy.blocks`.
    Returns:
        [B, T, D] by layer, filled by the forward pass.
    """
    seen: dict[Layer, Tensor] = {}

    def keep(layer: Layer, value: Any) -> None:
        hidden = hidden_states_of(value)
        if hidden is not None:
            seen[layer] = hidden

    handles = []
    for layer in layers:
        kind, path = layer_to_hook(layer, blocks_path)
        module = unwrap(model).get_submodule(path)
        if kind == "input":

            def before(
                module: nn.Module, args: tuple[Any, ...], kwargs: Any, layer: Layer = layer
            ) -> None:
                keep(layer, args or kwargs.get("hidden_states"))

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        else:

            def after(module: nn.Module, args: object, output: Any, layer: Layer = layer) -> None:
                keep(layer, output)

            handles.append(module.register_forward_hook(after))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
