"""Hooks that keep what one forward pass of a model leaves, whoever calls the model.

A wrapper around the model does not matter, since the hooks are on modules inside it. What runs
outside the body's forward is not recorded: gradient checkpointing repeats blocks in the backward
pass, and their hooks then see states that no loss reads any more.

Legend: B batch, T tokens, D width.
"""

import inspect
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distillens_plugin.lens.layers import Layer, layer_to_hook
from distillens_plugin.lens.probe import hidden_states_of, plain_model, unwrap
from distillens_plugin.lens.readout import Anatomy
from eval_harness.errors import DistillensError

# What a body calls its key-value cache or recurrent state. Only generation passes one.
_CACHES = ("cache", "past_key_values", "cache_params", "state")


@dataclass
class Record:
    """What one forward pass left.

    Attributes:
        last_hidden: [B, T, D], what the head reads.
        autocast_dtype: the type of the body's matrix products under autocast, else None.
        input_ids: [B, T], or None where the body was given embeddings.
        layers: the hooked layers' residual streams by module path, then `input` or `output`.
        hidden_by_checkpointing: a hooked layer ran without a graph although the body had one, as
            reentrant gradient checkpointing does.
        with_graph: gradients were enabled.
        mixed_rows: 0-d bool, packed rows (positions that restart, no mask) saw each other, as
            transformers keeps them apart only without a key-value cache; None if none could be.
    """

    last_hidden: Tensor
    autocast_dtype: torch.dtype | None
    input_ids: Tensor | None
    layers: dict[str, dict[str, Tensor]]
    hidden_by_checkpointing: bool
    with_graph: bool
    mixed_rows: Tensor | None = None


@dataclass
class _Running:
    """A forward pass of the body that has begun and not ended."""

    input_ids: Tensor | None
    with_graph: bool
    mixed_rows: Tensor | None
    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    hidden_by_checkpointing: bool = False


class Recorder:
    """Keeps the record of the model's last forward pass, until it is taken or the next one begins.

    A forward pass with a key-value cache (generation) is not recorded. A copy of the model brings
    its hooks along; they record nothing, as their modules are not the model's.

    Args:
        model: bare, or wrapped by DDP, torch.compile or peft.
        anatomy: of the model.
        layers: whose residual streams to keep, besides the final hidden states.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, layers: Iterable[Layer] = ()) -> None:
        self.record: Record | None = None
        self._running: _Running | None = None
        body = plain_model(model).get_submodule(anatomy.body)
        # Weak references: a hook lives in its module, and must not keep it alive in a circle.
        self._body = weakref.ref(body)
        self._ids_position = _position_of_ids(body)
        self._handles = [
            body.register_forward_pre_hook(self._begin, with_kwargs=True),
            body.register_forward_hook(self._end),
        ]
        for kind, path in dict.fromkeys(layer_to_hook(x, anatomy.blocks) for x in layers):
            self._handles.append(self._hook_layer(unwrap(model).get_submodule(path), kind, path))

    def __deepcopy__(self, memo: object) -> "Recorder":
        # For the hooks of a copied model: copying activations that have a graph would fail.
        return self

    def __reduce__(self) -> NoReturn:
        raise DistillensError(
            "the model has hooks of AttachedLens, which cannot be pickled; call remove() of the "
            "lens before, or save the model's weights (save_pretrained, state_dict)"
        )

    def take(self) -> Record | None:
        """The last forward pass's record, which is then forgotten: it keeps activations alive."""
        record, self.record = self.record, None
        return record

    def remove(self) -> None:
        """Takes the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.record, self._running = [], None, None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if module is not self._body():
            return
        self._running = None
        if has_cache(kwargs):
            return
        self.record = None
        ids = kwargs.get("input_ids")
        if ids is None and self._ids_position is not None and len(args) > self._ids_position:
            ids = args[self._ids_position]
        self._running = _Running(ids, torch.is_grad_enabled(), _mixed_rows(module, kwargs))

    def _end(self, module: nn.Module, args: object, output: Any) -> None:
        running, self._running = self._running, None
        if running is None or module is not self._body():
            return
        hidden = hidden_states_of(output)
        if hidden is None:
            return
        device = hidden.device.type
        enabled = torch.is_autocast_enabled(device)
        self.record = Record(
            hidden,
            torch.get_autocast_dtype(device) if enabled else None,
            running.input_ids,
            running.layers,
            running.hidden_by_checkpointing,
            running.with_graph,
            running.mixed_rows,
        )

    def _hook_layer(self, layer: nn.Module, kind: str, path: str) -> RemovableHandle:
        own = weakref.ref(layer)

        def keep(module: nn.Module, value: Any) -> None:
            running, hidden = self._running, hidden_states_of(value)
            if running is None or hidden is None or module is not own():
                return
            running.layers.setdefault(path, {})[kind] = hidden
            if running.with_graph and not torch.is_grad_enabled():
                running.hidden_by_checkpointing = True

        if kind == "output":
            return layer.register_forward_hook(lambda module, args, output: keep(module, output))
        return layer.register_forward_pre_hook(
            lambda module, args, kwargs: keep(module, args or kwargs.get("hidden_states")),
            with_kwargs=True,
        )


def has_cache(kwargs: Mapping[str, Any]) -> bool:
    """Whether a body was called with a key-value cache or recurrent state, as generation does."""
    return any(kwargs.get(name) is not None for name in _CACHES)


def _mixed_rows(body: nn.Module, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Of the body's arguments; see `Record`."""
    positions, use_cache = kwargs.get("position_ids"), kwargs.get("use_cache")
    if use_cache is None:
        use_cache = getattr(getattr(body, "config", None), "use_cache", False)
    if not use_cache or kwargs.get("attention_mask") is not None:
        return None
    if not isinstance(positions, Tensor) or positions.dim() != 2:
        return None
    return (positions[:, 1:] <= positions[:, :-1]).any()


def _position_of_ids(body: nn.Module) -> int | None:
    """Where the body's forward takes input_ids without their name; None if it does not."""
    names = list(inspect.signature(type(body).forward).parameters)[1:]
    return names.index("input_ids") if "input_ids" in names else None
