"""Rows laid end to end in packs of up to `max_length` tokens, so that batches hold no padding.

A pack is one row of the model's batch. Within it, positions restart with each of its own rows, and
transformers lets no row attend to another where positions restart and no attention mask is given.
"""

import random
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch.utils.data import Dataset

from eval_harness.errors import DistillensError


class TokenisedRows(Protocol):
    """A data set such as `InstructionDataset`: rows by number, and the tokens of each."""

    @property
    def lengths(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def best_fit(lengths: Sequence[int], capacity: int, order: Iterable[int]) -> list[list[int]]:
    """Packs of row numbers: each row goes into the fullest pack that still has room for it.

    Args:
        lengths: tokens per row, none above `capacity`.
        capacity: tokens per pack.
        order: in which the rows are laid; each pack keeps it.
    Returns:
        the packs, in the order in which they were begun.
    """
    packs: list[list[int]] = []
    # (free tokens, pack), sorted: the first entry that is large enough is the fullest pack.
    rooms: list[tuple[int, int]] = []
    for row in order:
        place = bisect_left(rooms, (lengths[row], 0))
        if place < len(rooms):
            free, pack = rooms.pop(place)
        else:
            free, pack = capacity, len(packs)
            packs.append([])
        packs[pack].append(row)
        insort(rooms, (free - lengths[row], pack))
    return packs


class PackedDataset(Dataset):
    """Packs of another data set's rows: the same ones in every epoch, whatever the processes.

    Only the order of the packs changes between epochs, which is the sampler's work; so an epoch
    has as many batches as any other, and a resumed run meets the same packs.

    Items are what `distillens.collate` takes: those of the rows, joined, with `position_ids` that
    restart at each row, and `row_ids` instead of `id`.

    Args:
        rows: every one goes into one pack.
        capacity: tokens per pack.
        seed: which rows share a pack depends on it and on the rows' lengths alone.

    Attributes:
        packs: row numbers.
        lengths: tokens of each pack.
    Raises:
        DistillensError: a row is longer than a pack.
    """

    def __init__(self, rows: TokenisedRows, capacity: int, *, seed: int = 0) -> None:
        longest = max(rows.lengths, default=0)
        if longest > capacity:
            raise DistillensError(
                f"packing: row {list(rows.lengths).index(longest)} has {longest} tokens, expected "
                f"at most the {capacity} of a pack; raise max_length"
            )
        self.rows = rows
        self.capacity = capacity
        order = list(range(len(rows)))
        # Long and short rows mix: laid by length, they would meet only their like in every epoch.
        random.Random(f"packs {seed}").shuffle(order)
        self.packs = best_fit(rows.lengths, capacity, order)
        self.lengths = [sum(rows.lengths[row] for row in pack) for pack in self.packs]

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        examples = [self.rows[row] for row in self.packs[index]]
        return {
            "input_ids": [token for example in examples for token in example["input_ids"]],
            "labels": [label for example in examples for label in example["labels"]],
            "position_ids": [t for example in examples for t in range(len(example["input_ids"]))],
            "row_ids": [example["id"] for example in examples],
            "pad_id": examples[0].get("pad_id", 0),
            "max_length": self.capacity,
        }

    def describe(self) -> str:
        """One line for people: how many packs, and how full they are."""
        num_tokens, num_packs = sum(self.lengths), len(self.packs)
        return (
            f"packing: {len(self.rows):,} rows in {num_packs:,} packs of up to {self.capacity:,} "
            f"tokens, {num_tokens / max(1, num_packs * self.capacity):.0%} full"
        )
