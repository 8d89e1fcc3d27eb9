"""Token lists of different lengths as one batch.

Legend: B rows, T tokens of the longest row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def left_padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows aligned at their ends, so that `generate` continues after each row's last token.

    Args:
        rows: B lists of token ids, at least one.
        pad_id: any id of the vocabulary; it is masked.
    Returns:
        (ids [B, T], mask [B, T]: 1 at tokens, 0 at padding), int64, on the CPU.
    """
    return _padded(rows, pad_id, on_the_left=True)


def right_padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """The same for rows aligned at their starts, as log-likelihoods need them."""
    return _padded(rows, pad_id, on_the_left=False)


def _padded(
    rows: Sequence[Sequence[int]], pad_id: int, *, on_the_left: bool
) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids_BT = torch.full((len(rows), width), pad_id)
    mask_BT = torch.zeros_like(ids_BT)
    for row, token_ids in enumerate(rows):
        start = width - len(token_ids) if on_the_left else 0
        ids_BT[row, start : start + len(token_ids)] = torch.tensor(token_ids)
        mask_BT[row, start : start + len(token_ids)] = 1
    return ids_BT, mask_BT
