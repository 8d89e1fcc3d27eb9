"""How hidden states are stored: as bfloat16, or as int8 beside each row's few largest numbers.

A residual stream has a few channels that are tens of times larger than the others. Scaled to them,
int8 would keep little of the rest: so each row's largest numbers are kept as bfloat16, with their
places, and the scale is that of what remains.

Legend: N rows, D width, K numbers kept apart.
"""

import torch
from torch import Tensor

SCALE = ".scale"
LARGE, PLACES = ".large", ".places"
# What a state's tensors are called after its name.
PARTS = ("", SCALE, LARGE, PLACES)
_LARGEST = 127
# On SmolLM2 (benchmarks/stored_states.py) 8 of 576 divide the error of plain int8 by 20.
_NUM_LARGE = 8


def encode(name: str, rows_ND: Tensor, dtype: str) -> dict[str, Tensor]:
    """Rows as they are stored, by the names of the tensors that hold them.

    int8 rounds to 1 / 127 of a row's largest number but those kept apart. A row with a NaN or an
    infinity comes back as NaN: it must not look like a healthy one.

    Args:
        name: of the state.
        rows_ND: [N, D], any float type.
        dtype: `bfloat16` or `int8`.
    """
    if dtype == "bfloat16":
        return {name: rows_ND.to(torch.bfloat16)}
    rows = rows_ND.float()
    # topk does not rank what is not finite in a fixed way; such a row is lost by its scale.
    healthy_N1 = rows.isfinite().all(dim=1, keepdim=True)
    places_NK = rows.abs().nan_to_num(0.0).topk(_num_large(rows.shape[1]), dim=1).indices
    large_NK = rows.gather(1, places_NK)
    rest = rows.scatter(1, places_NK, 0.0)
    scale_N = torch.where(healthy_N1.squeeze(1), rest.abs().amax(dim=1) / _LARGEST, torch.nan)
    divisor_N1 = torch.where(scale_N > 0, scale_N, 1.0).unsqueeze(1)
    levels = (rest / divisor_N1).nan_to_num(0.0).round().clamp(-_LARGEST, _LARGEST)
    return {
        name: levels.to(torch.int8),
        name + SCALE: scale_N,
        name + LARGE: large_NK.to(torch.bfloat16),
        name + PLACES: places_NK.to(_places_type(rows.shape[1])),
    }


def decode(name: str, stored: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """[N, D] rows of a state in `dtype`, from what `encode` gave.

    Shards of older versions hold int8 with a scale alone.
    """
    rows = stored[name]
    if name + SCALE not in stored:
        return rows.to(dtype)
    scale_N1 = stored[name + SCALE].unsqueeze(1)
    found = rows.float() * scale_N1
    if name + LARGE in stored:
        large = torch.where(scale_N1.isnan(), torch.nan, stored[name + LARGE].float())
        found = found.scatter(1, stored[name + PLACES].long(), large)
    return found.to(dtype)


def bytes_per_row(width: int, dtype: str) -> int:
    """What one row of `width` numbers takes on disk."""
    if dtype == "bfloat16":
        return 2 * width
    return width + 4 + _num_large(width) * (2 + _places_type(width).itemsize)


def _num_large(width: int) -> int:
    return min(_NUM_LARGE, width)


def _places_type(width: int) -> torch.dtype:
    return torch.int16 if width <= 2**15 else torch.int32
