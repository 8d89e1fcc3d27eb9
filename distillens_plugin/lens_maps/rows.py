"""One batch through one model: for each layer, the rows that its unembedding takes.

Legend: N supervised positions, D width, D_head what the unembedding reads, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillens_plugin.data.supervision import Supervised
from distillens_plugin.fused import Head
from distillens_plugin.fused.naive import head_logits
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.output import rows_at
from distillens_plugin.lens.probe import in_eval_mode, plain_model
from distillens_plugin.lens.streams import recorded_streams
from distillens_plugin.lens.translators import Translators
from distillens_plugin.lens_maps.batches import Batch, num_positions
from eval_harness.errors import DistillensError

NORMS = ("identity", "final")
# Logits of all layers of a chunk, in numbers. Their logarithms and probabilities take as much
# again, so that a measurement holds about four times this, unless one position needs more. On a
# CPU 8 MB of float32 are fastest: larger tensors are taken anew from the system each time.
_CHUNK_NUMBERS = 2**21
_ACCELERATOR_NUMBERS = 2**24


@dataclass(frozen=True)
class LayerRows:
    """What the lens reads in one batch.

    Attributes:
        streams: [N, D] by layer, the residual stream before any norm.
        read: [N, D_head] by layer, through the readout.
        final: [N, D_head], what the head itself reads.
        labels: [N], the token that follows each position.
    """

    streams: dict[int, Tensor]
    read: dict[int, Tensor]
    final: Tensor
    labels: Tensor
    head: Head

    def __len__(self) -> int:
        return len(self.labels)

    def logits(
        self, layers: Sequence[int | None], chunk: slice, num_columns: int | None = None
    ) -> Tensor:
        """Logits of some layers at some positions, in one product.

        Args:
            layers: None is what the head itself reads, the model's own logits.
        Returns:
            [len(layers), r, V], float32 (float64 for a float64 head).
        """
        parts = [(self.final if k is None else self.read[k])[chunk] for k in layers]
        logits = head_logits(torch.cat(parts), self.head, num_columns)
        return logits.unflatten(0, (len(parts), -1))


def chunks(
    num_rows: int, num_layers: int, vocab_size: int, device: torch.device
) -> Iterator[slice]:
    """Slices of rows whose logits of all layers are a chunk: 8 MB of float32, 64 MB on a GPU."""
    numbers = _CHUNK_NUMBERS if device.type == "cpu" else _ACCELERATOR_NUMBERS
    size = max(1, numbers // (num_layers * vocab_size))
    return (slice(start, start + size) for start in range(0, num_rows, size))


def entropy_of(log_probs: Tensor) -> Tensor:
    """[..., V] log-probabilities to [...], nats."""
    return -log_probs.exp().mul_(log_probs).sum(-1)


def check_batches(batches: Sequence[Batch], *models: nn.Module) -> None:
    """Whether there is something to read, and all models have its tokens.

    Vocabularies that differ by padding pass: a padding row of an unembedding is no token.

    Raises:
        DistillensError: no supervised position, or a token that a model does not have.
    """
    if num_positions(batches) == 0:
        raise DistillensError("the rows to be read have no supervised position; give others")
    largest = max(
        int(batch["input_ids"].max()) for batch, _ in batches if batch["input_ids"].numel()
    )
    for model in models:
        size = lens_of(model).anatomy.vocab_size
        if largest >= size:
            raise DistillensError(
                f"{type(plain_model(model)).__name__}: the rows to be read hold token {largest}, "
                f"but its vocabulary has {size}; read models whose vocabulary is the rows'"
            )


@contextmanager
def reading(*models: nn.Module) -> Iterator[None]:
    """Models in eval mode, without gradients; their own modes come back."""
    with ExitStack() as modes:
        for model in models:
            modes.enter_context(in_eval_mode(model))
        yield


def read_rows(
    model: nn.Module,
    batch: dict[str, Tensor],
    supervised: Supervised,
    layers: Sequence[int],
    *,
    norm: str = "identity",
    translators: Translators | None = None,
) -> LayerRows:
    """Runs a model on a batch; inside `reading`.

    Args:
        layers: k is the residual stream after k blocks, 0 the embeddings.
        translators: read the layers through the tuned lens; needs norm `final`.
    Raises:
        DistillensError: no such layer or norm.
    """
    lens = lens_of(model)
    _check(layers, lens.num_layers, norm, translators)
    with recorded_streams(model, layers, lens.blocks_path) as seen:
        output = forward(model, batch)
        streams = {layer: rows_at(seen[layer], supervised) for layer in layers}
    read = {}
    for layer, rows in streams.items():
        turned = rows if translators is None else translators.apply(layer, rows)
        read[layer] = output.lens.apply_readout(turned, norm=norm)
    final = output.final_rows(supervised)
    return LayerRows(streams, read, final, supervised.labels.to(final.device), output.lens.head())


def _check(
    layers: Sequence[int], num_layers: int, norm: str, translators: Translators | None
) -> None:
    if norm not in NORMS:
        raise DistillensError(f"norm = {norm!r}, expected identity or final")
    if translators is not None and norm != "final":
        raise DistillensError(
            "translators are trained through the final norm; read them with norm = 'final'"
        )
    if not layers:
        raise DistillensError(f"no layers were given; the model has layers 0 to {num_layers}")
    for layer in layers:
        if not 0 <= layer <= num_layers:
            raise DistillensError(f"layer {layer}: the model has layers 0 to {num_layers}")
