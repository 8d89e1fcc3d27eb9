"""Rows become a batch: padded to its longest row only, with the supervised positions found."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distillens_plugin.data.supervision import IGNORED, Targets, find_supervised
from eval_harness.errors import DistillensError

# `input_ids` and `attention_mask`, both [B, T] int64, and where they are supervised.
Batch = tuple[dict[str, Tensor], Targets]

# Tensor cores want sizes that are multiples of 8; it also means fewer shapes to compile for.
_MULTIPLE = 8
# Where rows without an `id` keep their number in the data set.
_NUMBER_KEYS = ("index", "idx")


def collate(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """torchdistill's `collate_fn: distillens.collate`: a right-padded batch and its targets.

    T is the longest row, rounded up to a multiple of 8 but not beyond the rows' `max_length`.

    Args:
        examples: items of an `InstructionDataset`, or of any data set with `input_ids` and `labels`
            of equal length (lists, arrays or tensors), and optionally `attention_mask` (0 leaves
            out the padding that a row comes with), `pad_id` (0 if not given), `max_length` (no
            limit if not given) and `id`. A row without an id is named by its number in the data set
            (`index` or `idx`) if it has one, else by its place in the batch. Other columns are
            ignored.
    Returns:
        batch: `input_ids` and `attention_mask`, [B, T] int64.
        targets: labels and their positions (`supervision.Targets`).
    Raises:
        DistillensError: no rows, or one whose columns are missing or differ in length.
    """
    if not examples:
        raise DistillensError("distillens.collate: found no rows, expected at least one")
    row_ids = [_row_id(example, place) for place, example in enumerate(examples)]
    rows = [_ids(example, row_id) for example, row_id in zip(examples, row_ids, strict=True)]
    longest = max(len(ids) for ids, _ in rows)
    limit = min((example.get("max_length") or longest + _MULTIPLE) for example in examples)
    width = max(longest, min(-(-longest // _MULTIPLE) * _MULTIPLE, limit))
    input_ids = torch.empty(len(examples), width, dtype=torch.int64)
    attention_mask = torch.zeros(len(examples), width, dtype=torch.int64)
    labels = torch.full((len(examples), width), IGNORED, dtype=torch.int64)
    for place, (ids, own_labels) in enumerate(rows):
        input_ids[place, : len(ids)] = ids
        input_ids[place, len(ids) :] = examples[place].get("pad_id", 0)
        attention_mask[place, : len(ids)] = 1
        labels[place, : len(ids)] = own_labels
    positions, next_tokens = find_supervised(labels)
    targets: Targets = {
        "labels": labels,
        "positions": positions,
        "next_tokens": next_tokens,
        "row_ids": row_ids,
    }
    return {"input_ids": input_ids, "attention_mask": attention_mask}, targets


def _row_id(example: Mapping[str, Any], place: int) -> str:
    if not isinstance(example, Mapping):
        raise DistillensError(
            f"distillens.collate: row {place} of the batch is {type(example).__name__}, expected a "
            "mapping with input_ids and labels"
        )
    given = (example.get(key) for key in ("id", *_NUMBER_KEYS))
    found = next((value for value in given if value is not None), place)
    return str(found.item() if isinstance(found, Tensor) and found.numel() == 1 else found)


def _ids(example: Mapping[str, Any], row_id: str) -> tuple[Tensor, Tensor]:
    """Token ids and labels of one row, without the padding that its mask leaves out."""
    ids = _column(example, "input_ids", row_id)
    labels = _column(example, "labels", row_id)
    if len(labels) != len(ids):
        raise DistillensError(
            f"distillens.collate: row {row_id!r} has {len(ids)} input_ids and {len(labels)} "
            "labels, expected as many of each, with -100 where nothing is supervised"
        )
    if example.get("attention_mask") is None:
        return ids, labels
    mask = _column(example, "attention_mask", row_id)
    if len(mask) != len(ids):
        raise DistillensError(
            f"distillens.collate: row {row_id!r} has {len(ids)} input_ids and an attention_mask of "
            f"{len(mask)}, expected as many of each"
        )
    return ids[mask != 0], labels[mask != 0]


def _column(example: Mapping[str, Any], key: str, row_id: str) -> Tensor:
    values = example.get(key)
    if values is None:
        raise DistillensError(
            f"distillens.collate: row {row_id!r} has no {key}; its columns are "
            f"{', '.join(map(str, example))}"
        )
    try:
        column = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DistillensError(
            f"distillens.collate: row {row_id!r}: its {key} are not a list of integers ({error})"
        ) from error
    whole = not column.is_floating_point() and not column.is_complex()
    if column.dim() != 1 or not (whole or column.numel() == 0):
        raise DistillensError(
            f"distillens.collate: row {row_id!r}: its {key} have shape {list(column.shape)} and "
            f"type {str(column.dtype).removeprefix('torch.')}, expected a list of integers"
        )
    return column.to(torch.int64)
