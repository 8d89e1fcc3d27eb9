"""The forward procedure: runs a causal LM and hands the losses what they need to read it.

A mid-level loss of torchdistill receives activations, never modules. So the forward procedure
returns a `LensOutput`, which carries the final hidden states and the model's own readout (final
norm and unembedding), and torchdistill puts it into `io_dict['.']['output']`.

The model runs *headless*: it is asked for the logits of no position at all (`logits_to_keep`
empty), through its own, possibly DDP-wrapped, forward. The head stays in the graph, so DDP
synchronises its gradient, and no [B, T, V] tensor exists; the losses read the head at supervised
positions only. If another hook reads the head's output, the model computes its logits.
"""

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.lens.discovery import supports_headless
from distillens_plugin.lens.head_hooks import head_reader
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.output import LensOutput
from distillens_plugin.lens.packed_inputs import packed_inputs
from distillens_plugin.lens.probe import plain_model, unwrap
from distillens_plugin.lens.recorder import Record, Recorder
from distillens_plugin.lens.router import has_router
from eval_harness.errors import DistillensError


class _Reader:
    """A model's lens, and the recorder of the final hidden states on its body.

    Args:
        headless: `supports_headless`; None tries it out.
    """

    def __init__(self, model: nn.Module, *, headless: bool | None = None) -> None:
        self.lens = lens_of(model)
        self.head = self.lens.part(self.lens.anatomy.head)
        self.headless = supports_headless(model) if headless is None else headless
        self.has_router = has_router(model)
        self.has_warned = False
        self.recorder = Recorder(model, self.lens.anatomy)

    def take(self) -> Record:
        record = self.recorder.take()
        if record is None:
            raise DistillensError(
                "the model's forward did not reach its body; was a module replaced after the first "
                "forward pass? build the box again"
            )
        return record


_readers: "weakref.WeakKeyDictionary[nn.Module, _Reader]" = weakref.WeakKeyDictionary()


def reader_of(model: nn.Module, *, headless: bool | None = None) -> _Reader:
    """The reader of a (wrapped) model, made at its first use; before it is sharded, if it is.

    Args:
        headless: what another process found out (`supports_headless`); None tries it out.
    """
    bare = unwrap(model)
    if bare not in _readers:
        _readers[bare] = _Reader(bare, headless=headless)
    return _readers[bare]


def _run(model: nn.Module, batch: object, *, with_logits: bool) -> LensOutput:
    given, own_targets = _inputs(batch)
    given = _on_device_of(model, given)
    reader = reader_of(model)
    # Nothing in torchdistill puts a frozen teacher into eval mode: its dropout would stay on.
    if model.training and not any(p.requires_grad for p in model.parameters()):
        model.eval()
    inputs: dict[str, Any] = {**packed_inputs(model, given), "use_cache": False}
    with_logits = with_logits or _must_have_logits(model, reader)
    if reader.headless and not with_logits:
        inputs["logits_to_keep"] = torch.empty(
            0, dtype=torch.long, device=given["input_ids"].device
        )
    if reader.has_router and any(p.requires_grad for p in model.parameters()):
        # For `distillens.router_loss`: the model adds that loss only to a loss of its own.
        inputs["output_router_logits"] = True
    output = model(**inputs)
    reader.lens.gather()
    return LensOutput(
        reader.lens,
        reader.take(),
        output.logits if with_logits else None,
        own_targets,
        router_loss=getattr(output, "aux_loss", None),
    )


def _inputs(batch: object) -> tuple[dict[str, Tensor], object]:
    """What the model is called with, and the targets inside the batch, or None.

    Labels are not passed to the model, which would compute its own loss on all logits.
    """
    targets: object = None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        # A loop without targets passes on the pair that distillens.collate returns.
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


def _on_device_of(model: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs where the model takes them: a teacher may be on another device than the batch."""
    embedding: nn.Module = plain_model(model).get_input_embeddings()  # type: ignore[operator]
    device = next(embedding.parameters()).device
    if device.type == "meta":  # accelerate's hooks bring weights and inputs together
        return given
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}


def _must_have_logits(model: nn.Module, reader: _Reader) -> bool:
    """Whether a hook reads the head's output; warns once, since logits take memory."""
    path = head_reader(model, reader.head) if reader.headless else None
    if path is not None and not reader.has_warned:
        reader.has_warned = True
        warnings.warn(
            f"a hook on {path!r} of {type(plain_model(model)).__name__} sees the logits, so "
            "distillens.forward computes them for all positions, as distillens.forward_with_logits "
            "does",
            stacklevel=3,
        )
    return path is not None


def forward(
    model: nn.Module,
    sample_batch: dict[str, Tensor],
    targets: object = None,
    supp_dict: object = None,
    **kwargs: object,
) -> LensOutput:
    """torchdistill's `forward_proc: distillens.forward`: the model without its head.

    Args:
        model: a transformers causal LM, bare or wrapped by DDP, peft or torch.compile.
        sample_batch: `input_ids` and `attention_mask` (for packs of rows `position_ids`), all
            [B, T], and optionally `labels`, used if the loop passes no targets.
    Raises:
        DistillensError: the batch has no input_ids, or labels of another shape.
    """
    return _run(model, sample_batch, with_logits=False)


def forward_with_logits(
    model: nn.Module,
    sample_batch: dict[str, Tensor],
    targets: object = None,
    supp_dict: object = None,
    **kwargs: object,
) -> LensOutput:
    """`forward_proc: distillens.forward_with_logits`: also keeps [B, T, V] logits, for terms of
    your own.
    """
    return _run(model, sample_batch, with_logits=True)
