"""The forward procedure: runs a causal LM and hands the losses what they need to read it.

A mid-level loss of torchdistill receives activations, never modules. So the forward procedure
returns a `LensOutput`, which carries the final hidden states and the model's own readout (final
norm and unembedding), and torchdistill puts it into `io_dict['.']['output']`.

The model runs *headless*: it is asked for the logits of no position at all (`logits_to_keep`
empty), through its own, possibly DDP-wrapped, forward. The head stays in the graph, so DDP
synchronises its gradient, and no [B, T, V] tensor exists; the losses read the head at supervised
positions only. Where somebody's hook reads the head's output, the model runs with its logits.
"""

import warnings
import weakref
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from distillens_plugin.data.supervision import Supervised, supervised_from_targets
from distillens_plugin.lens.discovery import (
    Lens,
    find_anatomy,
    hidden_states_of,
    plain_model,
    supports_headless,
    unwrap,
)
from distillens_plugin.lens.head_hooks import head_reader
from distillens_plugin.lens.layers import layer_to_hook
from eval_harness.errors import DistillensError


def rows_at(hidden_BTD: Tensor, supervised: Supervised) -> Tensor:
    """The hidden states of the supervised positions: [B, T, D] -> [N, D]."""
    return hidden_BTD.flatten(0, -2).index_select(0, supervised.to(hidden_BTD.device).positions)


class LensRows:
    """What a loss reads a model through: the rows that the model's own head takes.

    `LensOutput` takes them from a forward pass; the teacher cache reads them from disk.

    Attributes:
        lens: final norm and unembedding of the model.
    """

    lens: Lens

    def final_rows(self, supervised: Supervised) -> Tensor:
        """[N, D_head] rows of the final hidden states at the supervised positions."""
        raise NotImplementedError

    def layer_rows(
        self, io_dict: dict[str, Any], layer: int | str, supervised: Supervised, *, norm: str
    ) -> Tensor:
        """[N, D_head] rows of one layer, through the readout."""
        raise NotImplementedError

    def hidden_rows(
        self, io_dict: dict[str, Any], layer: int | str, supervised: Supervised
    ) -> Tensor:
        """[N, D] rows of one layer as they are, before any norm."""
        raise NotImplementedError


class LensOutput(LensRows):
    """What `distillens.forward` returns: hidden states and the model's own readout.

    Attributes:
        lens: final norm and unembedding of the model that ran.
        last_hidden: [B, T, D], what the head reads (already normed).
        autocast_dtype: the type the model's matrix products ran in under autocast, else None.
        targets: what came inside the batch, for a loop that has no targets of its own, else None.
    """

    def __init__(
        self,
        lens: Lens,
        last_hidden: Tensor,
        logits: Tensor | None,
        autocast_dtype: torch.dtype | None,
        targets: Any = None,
    ) -> None:
        self.lens = lens
        self.last_hidden = last_hidden
        self.autocast_dtype = autocast_dtype
        self.targets = targets
        self._logits = logits
        self._final_rows: tuple[Supervised, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return self.last_hidden.device

    @property
    def logits(self) -> Tensor:
        """[B, T, V], kept by `distillens.forward_with_logits`.

        Raises:
            DistillensError: the model ran without them.
        """
        if self._logits is None:
            raise DistillensError(
                "a loss reads the logits of distillens.forward, which runs the model without them; "
                "set forward_proc: distillens.forward_with_logits"
            )
        return self._logits

    def supervised(self, targets: Any) -> Supervised:
        """The supervised positions of the step, on the model's device.

        Args:
            targets: the box's; where they are None, those that came inside the batch.
        Raises:
            DistillensError: there are neither, or they are nothing that has labels.
        """
        return supervised_from_targets(self.targets if targets is None else targets).to(self.device)

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """A loss of torch's or torchdistill's that was given the output itself, module path '.'."""
        raise DistillensError(
            "a loss takes the model's output '.' for a tensor, and distillens.forward returns no "
            "tensor; let it read the head: forward_hook: {output: [lm_head]} and that module path"
        )

    def __truediv__(self, other: Any) -> NoReturn:
        self.__torch_function__()

    def final_rows(self, supervised: Supervised) -> Tensor:
        """[N, D] rows that the head reads; terms of one step get one tensor and share its GEMM."""
        if self._final_rows is None or self._final_rows[0].positions is not supervised.positions:
            self._final_rows = (supervised, rows_at(self.last_hidden, supervised))
        return self._final_rows[1]

    def layer_rows(
        self, io_dict: dict[str, Any], layer: int | str, supervised: Supervised, *, norm: str
    ) -> Tensor:
        """[N, D] rows of one layer, through the readout: the lens's inputs to the unembedding.

        Args:
            io_dict: torchdistill's record of what the hooks saw.
            layer: k for the residual stream after k blocks, or a module path.
            norm: `identity` or `final`.
        """
        return self.lens.apply_readout(self.hidden_rows(io_dict, layer, supervised), norm=norm)

    def hidden_rows(
        self, io_dict: dict[str, Any], layer: int | str, supervised: Supervised
    ) -> Tensor:
        """[N, D] rows of one layer as they are, before any norm."""
        return rows_at(hooked(io_dict, layer, self.lens.blocks_path), supervised)


def hooked(io_dict: dict[str, Any], layer: int | str, blocks_path: str) -> Tensor:
    """The [B, T, D] residual stream that torchdistill's forward hook recorded for a layer.

    Raises:
        DistillensError: the recipe installs no such hook; the line says which one to add.
    """
    kind, path = ("output", layer) if isinstance(layer, str) else layer_to_hook(layer, blocks_path)
    hidden = hidden_states_of(io_dict.get(path, {}).get(kind))
    if hidden is None:
        raise DistillensError(
            f"the loss needs the {kind} of module {path!r} (layer {layer}), and no hook "
            f"recorded it: add it to forward_hook: {{{kind}: [{path}]}} in the recipe"
        )
    return hidden


class _Reader:
    """A model's lens and the slot into which the hook on its body puts the final hidden states."""

    def __init__(self, model: nn.Module) -> None:
        anatomy = find_anatomy(model)
        self.lens = Lens(model, anatomy)
        self.head = plain_model(model).get_submodule(anatomy.head)
        self.headless = supports_headless(model)
        self.has_warned = False
        self.last_hidden: Tensor | None = None
        self.autocast_dtype: torch.dtype | None = None
        # A weak reference: the hook lives in the model, and must not keep its reader's model alive.
        reader = weakref.ref(self)

        def keep(module: nn.Module, args: object, output: Any) -> None:
            this, hidden = reader(), hidden_states_of(output)
            if this is not None and hidden is not None:
                device_type = hidden.device.type
                enabled = torch.is_autocast_enabled(device_type)
                this.last_hidden = hidden
                this.autocast_dtype = torch.get_autocast_dtype(device_type) if enabled else None

        plain_model(model).get_submodule(anatomy.body).register_forward_hook(keep)

    def pop(self) -> tuple[Tensor, torch.dtype | None]:
        hidden, self.last_hidden = self.last_hidden, None
        if hidden is None:
            raise DistillensError(
                "the model's forward did not reach its body; was a module swapped after the first "
                "forward pass? build the box anew"
            )
        return hidden, self.autocast_dtype


_readers: "weakref.WeakKeyDictionary[nn.Module, _Reader]" = weakref.WeakKeyDictionary()


def reader_of(model: nn.Module) -> _Reader:
    """The reader of a (wrapped) model, made at its first use, after the anatomy's self-check."""
    bare = unwrap(model)
    if bare not in _readers:
        _readers[bare] = _Reader(bare)
    return _readers[bare]


def _run(model: nn.Module, batch: Any, *, with_logits: bool) -> LensOutput:
    batch, own_targets = _inputs(batch)
    reader = reader_of(model)
    # Nothing in torchdistill puts a frozen teacher into eval mode: its dropout would stay on.
    if model.training and not any(p.requires_grad for p in model.parameters()):
        model.eval()
    inputs: dict[str, Any] = {**batch, "use_cache": False}
    with_logits = with_logits or _must_have_logits(model, reader)
    if reader.headless and not with_logits:
        inputs["logits_to_keep"] = torch.empty(
            0, dtype=torch.long, device=batch["input_ids"].device
        )
    output = model(**inputs)
    last_hidden, autocast_dtype = reader.pop()
    logits = output.logits if with_logits else None
    return LensOutput(reader.lens, last_hidden, logits, autocast_dtype, own_targets)


def _inputs(batch: Any) -> tuple[dict[str, Tensor], Any]:
    """What the model is called with, and the targets inside the batch, or None.

    Labels are kept from the model, which would compute a loss of its own on all logits.
    """
    targets = None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        # A loop without targets hands on what distillens.collate gives as it is.
        batch, targets = batch
    if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), Tensor):
        raise DistillensError(
            "distillens.forward takes a batch with input_ids and attention_mask, found "
            f"{type(batch).__name__}; set train_data_loader.collate_fn: distillens.collate"
        )
    labels = batch.get("labels")
    if labels is not None:
        if not isinstance(labels, Tensor) or labels.shape != batch["input_ids"].shape:
            found = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise DistillensError(
                f"the batch has labels of shape {found}, expected that of its input_ids, "
                f"{list(batch['input_ids'].shape)}, with -100 where nothing is supervised"
            )
        targets = labels if targets is None else targets
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    return inputs, targets


def _must_have_logits(model: nn.Module, reader: _Reader) -> bool:
    """Whether a hook reads what the head gives; said once, since logits take memory."""
    path = head_reader(model, reader.head) if reader.headless else None
    if path is not None and not reader.has_warned:
        reader.has_warned = True
        warnings.warn(
            f"a hook on {path!r} of {type(plain_model(model)).__name__} sees the logits, so "
            "distillens.forward computes them for all positions, as "
            "distillens.forward_with_logits does",
            stacklevel=3,
        )
    return path is not None


def forward(
    model: nn.Module,
    sample_batch: dict[str, Tensor],
    targets: Any = None,
    supp_dict: Any = None,
    **kwargs: Any,
) -> LensOutput:
    """torchdistill's `forward_proc: distillens.forward`: the model without its head.

    Args:
        model: a transformers causal LM, bare or wrapped by DDP, peft or torch.compile.
        sample_batch: `input_ids` and `attention_mask`, both [B, T], and perhaps `labels`, which
            are the targets of a loop that gives none.
    Raises:
        DistillensError: another kind of batch, or labels of another shape.
    """
    return _run(model, sample_batch, with_logits=False)


def forward_with_logits(
    model: nn.Module,
    sample_batch: dict[str, Tensor],
    targets: Any = None,
    supp_dict: Any = None,
    **kwargs: Any,
) -> LensOutput:
    """`forward_proc: distillens.forward_with_logits`: also keeps [B, T, V] logits, for terms of
    your own.
    """
    return _run(model, sample_batch, with_logits=True)
