"""Rows become a batch: padded to its longest row only, with the supervised positions found."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distillens_plugin.supervision import IGNORED, find_supervised

# Tensor cores want sizes that are multiples of 8; it also means fewer shapes to compile for.
_MULTIPLE = 8


def collate(examples: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """torchdistill's `collate_fn: distillens.collate`: a right-padded batch and its targets.

    T is the longest row, rounded up to a multiple of 8 but not beyond the rows' `max_length`.

    Args:
        examples: items of an `InstructionDataset`: `input_ids` and `labels` of equal length, `id`,
            and optionally `pad_id` (0 if not given) and `max_length` (no limit if not given).
    Returns:
        batch: `input_ids` and `attention_mask`, [B, T] int64.
        targets: `labels` [B, T] int64 (-100 where nothing is supervised), `positions` [N] int64
            into the flattened [B * T] grid whose *next* token is supervised, `next_tokens` [N]
            int64 those tokens, `row_ids` B strings.
    """
    longest = max(len(example["input_ids"]) for example in examples)
    limit = min((example.get("max_length") or longest + _MULTIPLE) for example in examples)
    width = max(longest, min(-(-longest // _MULTIPLE) * _MULTIPLE, limit))
    input_ids = torch.empty(len(examples), width, dtype=torch.int64)
    attention_mask = torch.zeros(len(examples), width, dtype=torch.int64)
    labels = torch.full((len(examples), width), IGNORED, dtype=torch.int64)
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        input_ids[row, :length] = torch.tensor(example["input_ids"], dtype=torch.int64)
        input_ids[row, length:] = example.get("pad_id", 0)
        attention_mask[row, :length] = 1
        labels[row, :length] = torch.tensor(example["labels"], dtype=torch.int64)
    positions, next_tokens = find_supervised(labels)
    targets = {
        "labels": labels,
        "positions": positions,
        "next_tokens": next_tokens,
        "row_ids": [str(example["id"]) for example in examples],
    }
    return {"input_ids": input_ids, "attention_mask": attention_mask}, targets
