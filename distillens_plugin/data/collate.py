"""Rows become a batch: padded to its longest row only, with the supervised positions found."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distillens_plugin.data.pack_columns import TokenRow, labels_of_pack, pack_facts
from distillens_plugin.data.supervision import IGNORED, Targets, find_supervised
from eval_harness.errors import DistillensError

# `input_ids` and `attention_mask` (or for packs `position_ids`), all [B, T] int64, and where they
# are supervised.
Batch = tuple[dict[str, Tensor], Targets]

# Tensor cores want sizes that are multiples of 8; it also means fewer shapes to compile for.
_MULTIPLE = 8
# Where rows without an `id` keep their number in the data set.
_NUMBER_KEYS = ("index", "idx")
# How a column of another length than the row's is told.
_LENGTHS = {
    "labels": "{} labels, expected as many of each, with -100 where nothing is supervised",
    "position_ids": "{} position_ids, expected as many of each",
    "attention_mask": "an attention_mask of {}, expected as many of each",
}


def collate(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """torchdistill's `collate_fn: distillens.collate`: a right-padded batch and its targets.

    Packs of rows, which come with `position_ids`, get no attention mask: transformers takes
    restarting positions for the beginning of another row only where there is none. To the model
    each token of the padding is a row, with position 0.

    T is the longest row, rounded up to a multiple of 8 but not beyond the rows' `max_length`.

    Args:
        examples: items of an `InstructionDataset`, or of any data set with `input_ids` and `labels`
            of equal length (lists, arrays or tensors), and optionally `attention_mask` (0 leaves
            out the padding that a row comes with), `pad_id` (0 if not given), `max_length` (no
            limit if not given) and `id`. A row without an id is named by its number in the data set
            (`index` or `idx`) if it has one, else by its place in the batch. Packs have
            `position_ids`, which restart at 0 with each row, and perhaps `row_ids`, one for each of
            these. Other columns are ignored.
    Returns:
        batch: `input_ids` and `attention_mask`, or `input_ids` and `position_ids`; [B, T] int64.
        targets: labels and their positions (`supervision.Targets`).
    Raises:
        DistillensError: no rows, one whose columns are missing or differ in length, or packs
            beside rows.
    """
    if not examples:
        raise DistillensError("distillens.collate: found no rows, expected at least one")
    row_ids = [_row_id(example, place) for place, example in enumerate(examples)]
    rows = [_row(example, row_id) for example, row_id in zip(examples, row_ids, strict=True)]
    packs = pack_facts(examples, rows, row_ids)
    longest = max(len(row.input_ids) for row in rows)
    limit = min((example.get("max_length") or longest + _MULTIPLE) for example in examples)
    width = max(longest, min(-(-longest // _MULTIPLE) * _MULTIPLE, limit))
    input_ids = torch.empty(len(examples), width, dtype=torch.int64)
    attention_mask = torch.zeros(len(examples), width, dtype=torch.int64)
    position_ids = torch.zeros(len(examples), width, dtype=torch.int64)
    labels = torch.full((len(examples), width), IGNORED, dtype=torch.int64)
    for place, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[place, :length] = row.input_ids
        input_ids[place, length:] = examples[place].get("pad_id", 0)
        labels[place, :length] = row.labels
        if row.position_ids is None:
            attention_mask[place, :length] = 1
        else:
            position_ids[place, :length] = row.position_ids
    positions, next_tokens = find_supervised(labels)
    targets: Targets = {
        "labels": labels,
        "positions": positions,
        "next_tokens": next_tokens,
        "row_ids": row_ids,
    }
    if packs is None:
        return {"input_ids": input_ids, "attention_mask": attention_mask}, targets
    targets.update(packs)
    return {"input_ids": input_ids, "position_ids": position_ids}, targets


def _row_id(example: Mapping[str, Any], place: int) -> str:
    if not isinstance(example, Mapping):
        raise DistillensError(
            f"distillens.collate: row {place} of the batch is {type(example).__name__}, expected a "
            "mapping with input_ids and labels"
        )
    given = (example.get(key) for key in ("id", *_NUMBER_KEYS))
    found = next((value for value in given if value is not None), place)
    return str(found.item() if isinstance(found, Tensor) and found.numel() == 1 else found)


def _row(example: Mapping[str, Any], row_id: str) -> TokenRow:
    """One row's columns, without the padding that its mask leaves out."""
    ids = _column(example, "input_ids", row_id)
    columns = {"input_ids": ids, "labels": _column(example, "labels", row_id)}
    for key in ("position_ids", "attention_mask"):
        if example.get(key) is not None:
            columns[key] = _column(example, key, row_id)
    for key, column in columns.items():
        if len(column) != len(ids):
            raise DistillensError(
                f"distillens.collate: row {row_id!r} has {len(ids)} input_ids and "
                + _LENGTHS[key].format(len(column))
            )
    mask = columns.pop("attention_mask", None)
    if mask is not None:
        columns = {key: column[mask != 0] for key, column in columns.items()}
    if "position_ids" in columns:
        columns["labels"] = labels_of_pack(columns["labels"], columns["position_ids"], row_id)
    return TokenRow(columns["input_ids"], columns["labels"], columns.get("position_ids"))


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
