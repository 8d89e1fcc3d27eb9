"""What a lens reads from each layer of one model, as means over positions.

Legend: N supervised positions, L blocks, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.translators import Translators
from distillens_plugin.lens_maps.batches import Batch
from distillens_plugin.lens_maps.rows import (
    LayerRows,
    check_batches,
    chunks,
    entropy_of,
    read_rows,
    reading,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerStatistics:
    """Numbers of each layer; arrays of [L + 1].

    Attributes:
        layers: 0 (the embeddings) to L.
        entropy: of the next-token distribution that the lens reads, mean, nats.
        divergence_to_final: KL(the model's own distribution || the lens's), mean, nats.
        true_rank: median rank of the token that follows, 1 the most probable; tokens with equal
            logits have the same rank, the best.
        top1: share of positions where that rank is 1.
        true_probability: mean probability of the token that follows.
        logits_std: standard deviation of the logits over the vocabulary, mean.
        stream_rms: root mean square of the residual stream.
        num_positions: N.
        norm: `identity`, `final` or `tuned`.
    """

    layers: list[int]
    entropy: Floats
    divergence_to_final: Floats
    true_rank: Floats
    top1: Floats
    true_probability: Floats
    logits_std: Floats
    stream_rms: Floats
    num_positions: int
    norm: str


@dataclass(frozen=True)
class ModelReading:
    """One model on some batches.

    Attributes:
        entropies: [L + 1, N] at each position, nats; on the CPU.
    """

    statistics: LayerStatistics
    entropies: Tensor


def layer_statistics(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    norm: str = "identity",
    translators: Translators | None = None,
) -> LayerStatistics:
    """Reads every layer of a model on some batches.

    One forward pass of each batch, and (L + 2) N products with the unembedding, of which no more
    than a chunk is held.

    Args:
        model: a causal LM, bare or wrapped; it is read in eval mode, without gradients.
        batches: from `lens_batches`.
        norm: before the unembedding: `identity` (none) or `final` (the model's own).
        translators: the tuned lens's; needs norm `final`.
    Raises:
        DistillensError: no supervised position, another norm, translators without `final`, or
            tokens that the model does not have.
    """
    return read_model(model, batches, norm=norm, translators=translators).statistics


def read_model(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    norm: str = "identity",
    translators: Translators | None = None,
) -> ModelReading:
    """As `layer_statistics`, with the entropy at each position."""
    check_batches(batches, model)
    sums = LayerSums(model, norm="tuned" if translators is not None else norm)
    with reading(model):
        entropies = [
            sums.add(
                read_rows(model, batch, supervised, sums.layers, norm=norm, translators=translators)
            )
            for batch, supervised in batches
        ]
    return ModelReading(sums.means(), torch.cat(entropies, dim=1))


class LayerSums:
    """Adds batches up to `LayerStatistics`."""

    def __init__(self, model: nn.Module, *, norm: str) -> None:
        self.layers = list(range(lens_of(model).num_layers + 1))
        self._norm = norm
        # entropy, KL, probability, logits' deviation, and the stream's square, by layer.
        self._sums = torch.zeros(5, len(self.layers), dtype=torch.float64)
        self._ranks: list[Tensor] = []
        self._count = 0

    def add(self, rows: LayerRows) -> Tensor:
        """Takes a batch in.

        Returns:
            [L + 1, N], the entropy at each position, nats; on the CPU.
        """
        entropies = []
        size = rows.head.vocab_size
        for chunk in chunks(len(rows), len(self.layers) + 1, size, rows.final.device):
            *_, own = both = rows.logits([*self.layers, None], chunk)
            logits = both[:-1]
            labels = rows.labels[chunk].expand(len(self.layers), -1).unsqueeze(-1)
            self._ranks.append(rank_of(labels, logits).cpu())
            # Several times as fast as `std` on a CPU.
            centred = logits - logits.mean(-1, keepdim=True)
            deviation = torch.linalg.vector_norm(centred, dim=-1) / (size - 1) ** 0.5
            log_read, log_final = logits.log_softmax(-1), own.log_softmax(-1)
            entropy, final = entropy_of(log_read), log_final.exp()
            # By layer: the difference of all layers at once would be another chunk.
            kl = [(log_final - each).mul_(final).sum(-1) for each in log_read]
            probability = log_read.gather(-1, labels).squeeze(-1).exp()
            found = torch.stack([entropy, torch.stack(kl), probability, deviation])
            self._sums[:4] += found.double().sum(-1).cpu()
            entropies.append(entropy.cpu())
        for index, layer in enumerate(self.layers):
            stream = rows.streams[layer].double()
            self._sums[4, index] += stream.square().mean(-1).sum().cpu()
        self._count += len(rows)
        empty = torch.zeros(len(self.layers), 0)
        return torch.cat([empty, *entropies], dim=1)

    def means(self) -> LayerStatistics:
        """Over all positions so far; there must be one."""
        entropy, kl, probability, deviation, square = (self._sums / self._count).numpy()
        ranks = torch.cat(self._ranks, dim=1).numpy()
        return LayerStatistics(
            layers=self.layers,
            entropy=entropy,
            divergence_to_final=kl,
            true_rank=np.median(ranks, axis=1),
            top1=(ranks == 1).mean(axis=1),
            true_probability=probability,
            logits_std=deviation,
            stream_rms=np.sqrt(square),
            num_positions=self._count,
            norm=self._norm,
        )


def rank_of(labels: Tensor, logits: Tensor) -> Tensor:
    """[..., 1] ids and [..., V] logits to [...]: 1 and the number of tokens with greater logits."""
    return (logits > logits.gather(-1, labels)).sum(-1) + 1
