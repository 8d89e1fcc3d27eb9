"""Which positions are supervised, and by how much a loss is divided.

Shapes: B batch, T tokens, N supervised tokens.

Position t is supervised when the *next* token carries a label: labels[:, t + 1] != -100. Only these
positions ever reach an unembedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from eval_harness.errors import DistillensError

IGNORED = -100


class Targets(TypedDict):
    """torchdistill's `targets` as `distillens.collate` makes them; a plain dict at run time.

    Attributes:
        labels: [B, T] int64, -100 where nothing is supervised.
        positions: [N] int64, into the flattened [B * T] grid; the *next* token is supervised.
        next_tokens: [N] int64, the token that follows each position.
        row_ids: of the B rows, or of all rows of B packs in the order of their positions.
        num_supervised: the N of the whole accumulation window, over all its batches and all ranks,
            at least 1; set by the runner.
        num_tokens: tokens without padding, where the batch has packs and so no attention mask.
        row_counts: supervised positions of each of `row_ids`, where the batch has packs.
    """

    labels: Tensor
    positions: Tensor
    next_tokens: Tensor
    row_ids: list[str]
    num_supervised: NotRequired[float]
    num_tokens: NotRequired[int]
    row_counts: NotRequired[list[int]]


@dataclass(frozen=True)
class Supervised:
    """The supervised positions of one batch.

    Attributes:
        positions: [N] int64, into the flattened [B * T] grid of hidden states.
        labels: [N] int64, the token that follows each position.
        count: divides sums over positions; None means N itself. The runner sets it to the number
            of supervised tokens in the whole accumulation window over all ranks.
    """

    positions: Tensor
    labels: Tensor
    count: Tensor | float | None = None

    def to(self, device: torch.device) -> "Supervised":
        """The same positions on another device."""
        if self.positions.device == device:
            return self
        return Supervised(
            self.positions.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.count,
        )


def find_supervised(labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and labels from a [B, T] label tensor with -100 where nothing is supervised.

    Returns:
        positions [N] int64 into the flattened [B * T] grid, and their next tokens [N] int64.
    """
    following_BT = torch.full_like(labels_BT, IGNORED)
    following_BT[:, :-1] = labels_BT[:, 1:]
    following = following_BT.flatten()
    positions = (following != IGNORED).nonzero().squeeze(1)
    return positions, following[positions]


def supervised_from_targets(targets: object) -> Supervised:
    """Reads what a collate function put into torchdistill's `targets`.

    Args:
        targets: `Targets`, or a mapping with `labels`, or a [B, T] label tensor.
    Raises:
        DistillensError: anything else.
    """
    if isinstance(targets, Mapping):
        count = targets.get("num_supervised")
        if "positions" in targets:
            return Supervised(targets["positions"], targets["next_tokens"], count)
        if "labels" in targets:
            return Supervised(*find_supervised(targets["labels"]), count)
    if isinstance(targets, Tensor) and targets.dim() == 2:
        return Supervised(*find_supervised(targets))
    found = "none" if targets is None else type(targets).__name__
    raise DistillensError(
        f"the targets of a distillens loss: found {found}, expected a [B, T] label tensor with "
        "-100 where nothing is supervised, what collate_fn: distillens.collate makes, or labels "
        "inside the batch"
    )
