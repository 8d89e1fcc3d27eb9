"""The rows that a model is read on, as batches with their supervised positions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distillens_plugin.data.collate import collate
from distillens_plugin.data.supervision import Supervised, supervised_from_targets

Batch = tuple[dict[str, Tensor], Supervised]


def lens_batches(
    dataset: Any,
    num_rows: int,
    device: torch.device | str,
    batch_rows: int = 8,
    max_positions: int | None = None,
) -> list[Batch]:
    """The first rows of a data set, on a device.

    Args:
        dataset: of examples, such as an `InstructionDataset` or a subset of one.
        num_rows: at most; fewer if the data set ends, or `max_positions` are reached.
        max_positions: supervised positions in all; those of the last batch are cut to it.
    Returns:
        Batches, each with some supervised position.
    """
    count, left = min(num_rows, len(dataset)), max_positions
    batches: list[Batch] = []
    for start in range(0, count, batch_rows):
        if left is not None and left <= 0:
            break
        rows: Sequence[Any] = [dataset[i] for i in range(start, min(start + batch_rows, count))]
        batch, targets = collate(rows)
        supervised = supervised_from_targets(targets)
        if left is not None:
            supervised = Supervised(supervised.positions[:left], supervised.labels[:left])
            left -= supervised.positions.numel()
        if supervised.positions.numel() == 0:
            continue
        # What follows the last position would be read for nothing.
        num_needed = int(supervised.positions.max()) // batch["input_ids"].shape[1] + 1
        moved = {name: value[:num_needed].to(device) for name, value in batch.items()}
        batches.append((moved, supervised.to(torch.device(device))))
    return batches


def num_positions(batches: Sequence[Batch]) -> int:
    """Supervised positions of all batches."""
    return sum(supervised.positions.numel() for _, supervised in batches)
