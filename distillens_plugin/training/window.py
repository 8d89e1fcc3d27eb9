"""Accumulation windows: batches whose gradients meet in one optimiser step.

A window is normalised by its supervised tokens over all batches and all ranks, not by a mean of
means: one look ahead over its batches counts them before the first forward pass.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from distillens_plugin.data.collate import Batch


@dataclass(frozen=True)
class Window:
    """The batches of one optimiser step on this rank.

    Attributes:
        batches: (batch, targets) pairs; each targets carries `num_supervised`.
        num_supervised: supervised tokens of the window over all ranks, at least 1.
        num_all_masked: batches in which nothing is supervised, over all ranks.
    """

    batches: list[Batch]
    num_supervised: float
    num_all_masked: int


def windows(loader: Iterable[Batch], size: int, accelerator: Accelerator) -> Iterator[Window]:
    """Groups a loader's batches by `size`; the rest at the end is a smaller window."""
    pending: list[Batch] = []
    for pair in loader:
        pending.append(pair)
        if len(pending) == size:
            yield _close(pending, accelerator)
            pending = []
    if pending:
        yield _close(pending, accelerator)


def _close(batches: list[Batch], accelerator: Accelerator) -> Window:
    counts = [int(targets["positions"].numel()) for _, targets in batches]
    total, num_all_masked = float(sum(counts)), float(counts.count(0))
    if accelerator.num_processes > 1:
        # Alone, the count is on the host already: a reduction would only make the device wait.
        local = torch.tensor([total, num_all_masked], device=accelerator.device)
        total, num_all_masked = accelerator.reduce(local, "sum").tolist()
    # An all-masked window gives zero gradients rather than a division by zero.
    num_supervised = max(1.0, total)
    for _, targets in batches:
        targets["num_supervised"] = num_supervised
    return Window(batches, num_supervised, int(num_all_masked))
