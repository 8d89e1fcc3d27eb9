"""How hidden states are stored: as bfloat16, or as int8 with one float scale a row.

Legend: N rows, D width.
"""

import torch
from torch import Tensor

SCALE = ".scale"
_LARGEST = 127


def encode(name: str, rows_ND: Tensor, dtype: str) -> dict[str, Tensor]:
    """Rows as they are stored, by the names of the tensors that hold them.

    int8 rounds to max|row| / 127, so a row with a few huge entries keeps little of the others. A
    row with a NaN or an infinity comes back as NaN: it must not look like a healthy one.

    Args:
        name: of the state.
        rows_ND: [N, D], any float type.
        dtype: `bfloat16` or `int8`.
    """
    if dtype == "bfloat16":
        return {name: rows_ND.to(torch.bfloat16)}
    rows = rows_ND.float()
    scale_N = rows.abs().amax(dim=1) / _LARGEST
    divisor_N1 = torch.where(scale_N > 0, scale_N, 1.0).unsqueeze(1)
    levels = (rows / divisor_N1).nan_to_num(0.0).round().clamp(-_LARGEST, _LARGEST)
    return {name: levels.to(torch.int8), name + SCALE: scale_N}


def decode(name: str, stored: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """[N, D] rows of a state in `dtype`, from what `encode` gave."""
    rows = stored[name]
    if name + SCALE not in stored:
        return rows.to(dtype)
    return (rows.float() * stored[name + SCALE].unsqueeze(1)).to(dtype)


def bytes_per_row(width: int, dtype: str) -> int:
    """What one row of `width` numbers takes on disk."""
    return 2 * width if dtype == "bfloat16" else width + 4
