"""Reads a model's residual stream as next-token logits, through the model's own parameters.

Shapes: N rows, D width of the residual stream, D_head what the unembedding reads, V vocabulary.

The parameters are live: they train with the model (tied embedding, LoRA).
"""

import contextlib
import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.fused import Head
from distillens_plugin.lens.gathering import gather
from distillens_plugin.lens.probe import frozen as without_gradient
from distillens_plugin.lens.probe import plain_model
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class Anatomy:
    """Where a causal LM keeps what the lens needs; found by `discovery.find_anatomy`.

    Paths are those of `plain_model(model)`, except for `blocks`, which is for hooks.

    Attributes:
        blocks: path of the list of blocks on the unwrapped model, as torchdistill's forward_hook
            takes it (on a PeftModel it starts with `base_model.model.`); layer k is the output of
            `<blocks>.<k-1>`.
        num_layers: number of blocks.
        readout: modules between the last block and the head, in order.
        norms: those of the readout that are norms.
        head: path of the unembedding.
        body: the module whose output's last_hidden_state is exactly what the head reads.
        scale, softcap: logits = softcap * tanh(scale * head(h) / softcap), no tanh when None.
        width: D of the residual stream.
        head_width: D_head, different where the readout projects (OPT).
        vocab_size: V, rows of the unembedding (padded rows included).
        tied: the unembedding is the input embedding.
        bias: the unembedding has a bias.
        dtype: of the unembedding's weight.
    """

    blocks: str
    num_layers: int
    readout: tuple[str, ...]
    norms: tuple[str, ...]
    head: str
    body: str
    scale: float
    softcap: float | None
    width: int
    head_width: int
    vocab_size: int
    tied: bool
    bias: bool
    dtype: torch.dtype


def active_adapters(module: nn.Module) -> list[str]:
    """Names of the peft LoRA adapters that take part in this module's forward now."""
    if not hasattr(module, "get_delta_weight") or not hasattr(module, "get_base_layer"):
        return []
    layer: Any = module
    if layer.disable_adapters or layer.merged:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _refuse_other_adapters(module: nn.Module) -> None:
    """DoRA and the like: a new one changes nothing yet, so that no look at the logits finds it.

    Raises:
        DistillensError: an active adapter of the head is not plain LoRA.
    """
    layer: Any = module
    if not hasattr(layer, "get_base_layer") or layer.disable_adapters or layer.merged:
        return
    for name in layer.active_adapters:
        held = any(name in getattr(layer, part, ()) for part in layer.adapter_layer_names)
        # What peft calls variants of LoRA: DoRA, and others that are more than a product of two.
        is_variant = name in getattr(layer, "lora_variant", ()) or getattr(
            layer, "use_dora", {}
        ).get(name, False)
        if held and (is_variant or name not in getattr(layer, "lora_A", ())):
            raise DistillensError(
                f"the unembedding has the adapter {name!r} ({type(layer).__name__}"
                f"{', DoRA or another variant' if is_variant else ''}), expected plain LoRA or "
                "none, as the lens reads W + s B A; take the head out of target_modules, or use "
                "plain LoRA"
            )


def unembedding(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [V, D_head] and bias [V] of a head, LoRA merged in and differentiable in its factors.

    Raises:
        DistillensError: the weight is not a float matrix (quantised), or in pieces, or has an
            adapter other than plain LoRA.
    """
    _refuse_other_adapters(module)
    layer: Any = module
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    weight: Any = getattr(base, "weight", None)
    bias: Any = getattr(base, "bias", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        found = f"{tuple(weight.shape)} {weight.dtype}" if isinstance(weight, Tensor) else "none"
        raise DistillensError(
            f"the unembedding {type(base).__name__} has no plain weight matrix (found: {found}); "
            "a quantised head cannot be read: load it unquantised (llm_int8_skip_modules)"
        )
    if hasattr(weight, "placements"):
        raise DistillensError(
            "the unembedding is in pieces (FSDP2): it can be read only after the model's forward, "
            "on every rank; call the model first, or Lens.gather()"
        )
    for adapter in active_adapters(module):
        weight = weight + layer.get_delta_weight(adapter).to(weight.dtype)
        extra = layer.lora_B[adapter].bias
        if extra is not None:
            extra = extra * layer.scaling[adapter]
            bias = extra if bias is None else bias + extra
    return weight, bias


class Lens:
    """A model's readout and head, for hidden states of any layer.

    Args:
        model: the (wrapped, peft) model.
        anatomy: what `find_anatomy(model)` found.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        plain = plain_model(model)
        self.anatomy = anatomy
        # Weak, since lenses are kept by model (known_lenses.py); its parts outlive it here.
        self._plain = weakref.ref(plain)
        self._parts = {p: plain.get_submodule(p) for p in (anatomy.head, *anatomy.readout)}
        self._copy: tuple[tuple[object, ...], Head] | None = None

    def part(self, path: str) -> nn.Module:
        """The head or a module of the readout, as it is now: peft replaces modules by its own."""
        plain = self._plain()
        return self._parts[path] if plain is None else plain.get_submodule(path)

    @property
    def blocks_path(self) -> str:
        return self.anatomy.blocks

    @property
    def num_layers(self) -> int:
        return self.anatomy.num_layers

    @property
    def read_width(self) -> int:
        """D_head, the width of what `apply_readout` returns."""
        return self.anatomy.head_width

    def gather(self) -> None:
        """Makes readout and head whole where FSDP2 has them in pieces; every rank must call it.

        After a forward of accelerate's FSDP2 they are, and nothing happens.
        """
        plain = self._plain()
        if plain is not None:
            gather(plain, self._parts)

    def head(self) -> Head:
        """The unembedding as it is now. Call it once per step: LoRA on the head is merged here.

        (Its dropout, if it has one, is not applied.)
        """
        weight, bias = unembedding(self.part(self.anatomy.head))
        return Head(weight, bias, softcap=self.anatomy.softcap, scale=self.anatomy.scale)

    def head_on(self, device: torch.device) -> Head:
        """The unembedding on this device; a copy has no gradient, and is renewed if it changed."""
        head = self.head()
        if head.weight.device == device:
            return head
        state = (device, head.weight.data_ptr(), head.weight._version)
        if self._copy is None or self._copy[0] != state:
            bias = None if head.bias is None else head.bias.detach().to(device)
            copy = replace(head, weight=head.weight.detach().to(device), bias=bias)
            self._copy = (state, copy)
        return self._copy[1]

    def head_parameters(self) -> list[nn.Parameter]:
        """Of the unembedding: its weight and bias, and what LoRA adds."""
        return list(self.part(self.anatomy.head).parameters())

    def apply_readout(self, hidden: Tensor, *, norm: str = "final", frozen: bool = False) -> Tensor:
        """Rows of any layer, in the form that the unembedding takes.

        Args:
            hidden: [..., D], the residual stream.
            norm: `final` applies the model's final norm (the logit lens as first published);
                `identity` leaves norms out (the paper's code) but keeps projections, without which
                widths would not fit.
            frozen: the readout's own parameters get no gradient; `hidden` still does.
        Returns:
            [..., D_head], in the type of `hidden`.
        Raises:
            ValueError: another norm.
        """
        if norm not in ("identity", "final"):
            raise ValueError(f"norm must be 'identity' or 'final', found {norm!r}")
        rows = hidden
        for path in self.anatomy.readout:
            if norm == "identity" and path in self.anatomy.norms:
                continue
            module = self.part(path)
            parameter = next(module.parameters(), None)
            # Under autocast the stream can be bfloat16 while the norm's gain is float32.
            rows = rows if parameter is None else rows.to(parameter.device, parameter.dtype)
            # Not module(rows): that would fire hooks on the final norm with the lens's rows.
            with without_gradient(module) if frozen else contextlib.nullcontext():
                rows = module.forward(rows)
        return rows.to(hidden.dtype)
