"""Which segments the Triton kernel takes, and its launch; the compiled pass takes all others.

What the compiler makes of the same formulas is bound by arithmetic; the kernel does less of it.

Legend: r rows of a segment, V vocabulary.
"""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from distillens_plugin.divergences import JensenShannon
from distillens_plugin.divergences.kl import ForwardKL, ReverseKL
from distillens_plugin.fused.segment import SegmentKind, SegmentResult

# Benchmarks set these, to compare.
ENABLED = True
# Columns at a time, and warps for each row: the fastest of seven on an H100, by 1 % (docs/gpu.md).
BLOCK, NUM_WARPS = 1024, 8
DEVICES = ("cuda",)  # Triton's interpreter takes "cpu" too

_HALF = (torch.bfloat16, torch.float16)
_ALIGNED_COLUMNS = 16  # what Triton asks of a bound before it makes loads wide
_FORWARD, _REVERSE, _MIXTURE = 0, 1, 2
_SMALL_SHARE = 0.05  # as in divergences/mixtures.py


class State:
    """Of this process: whether the kernel has failed, and how often it has run."""

    failed = False
    launches = 0


class _Formula(NamedTuple):
    kind: int
    share: float = 1.0
    rest: float = 0.0


def launches() -> int:
    """How many segments the kernel has computed in this process."""
    return State.launches


def takes(
    kind: SegmentKind,
    products: Tensor,
    teachers: Sequence[Tensor],
    student_bias: Tensor | None,
    teacher_bias: Tensor | None,
    bias_factors: Tensor | None,
) -> bool:
    """Whether the kernel computes such a segment; arguments as in `segment_block`."""
    return (
        ENABLED
        and not State.failed
        and products.device.type in DEVICES
        and len(kind.groups) == len(teachers) == 1
        and _formula(kind) is not None
        and kind.dtype == torch.float32
        and not kind.entropies
        and products.dtype in _HALF
        and teachers[0].dtype in _HALF
        and products.stride(1) == teachers[0].stride(1) == 1
        and student_bias is teacher_bias is bias_factors is None
        and _has_triton()
    )


def triton_segment(
    kind: SegmentKind, products: Tensor, teacher: Tensor, row_factors: Tensor | None
) -> SegmentResult | None:
    """One segment, with the gradient over `products` if `kind` says so.

    Args:
        products: [r, V_s], the student's, raw. Padding to the right of it may be set to 0.
        teacher: [r, common].
        row_factors: [r], a factor of the gradient.
    Returns:
        None if the kernel could not be compiled or launched; `products` are then as they were.
    """
    try:
        losses = _launch(kind, products, teacher, row_factors)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        warnings.warn(
            f"the fused lens could not run its Triton kernel ({type(error).__name__}: "
            f"{reason[0] if reason else 'no message'}); it runs through torch.compile: slower, "
            "with the same results",
            RuntimeWarning,
            stacklevel=2,
        )
        State.failed = True
        return None
    State.launches += 1
    if kind.keep_gradient:
        products[:, kind.common :].zero_()
    return SegmentResult([losses], [(None, None)], None)


def _launch(
    kind: SegmentKind, products: Tensor, teacher: Tensor, row_factors: Tensor | None
) -> Tensor:
    from distillens_plugin.fused.triton_kernel import divergence_rows

    formula = _formula(kind)
    assert formula is not None
    rows, device = len(products), products.device
    losses = torch.empty(rows, dtype=torch.float32, device=device)
    if rows == 0:
        return losses
    (student_scale, student_cap), (teacher_scale, teacher_cap) = kind.student, kind.teacher
    factors = losses if row_factors is None else row_factors.to(torch.float32).contiguous()
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        divergence_rows[(rows,)](
            products,
            teacher,
            losses,
            factors,
            products.stride(0),
            teacher.stride(0),
            float(student_scale),
            float(student_cap or 1),
            float(teacher_scale),
            float(teacher_cap or 1),
            1 / kind.groups[0].temperature,
            formula.share,
            formula.rest,
            COMMON=kind.common,
            WIDTH=_width(kind.common, products, teacher),
            KIND=formula.kind,
            SMALL=formula.share < _SMALL_SHARE,
            FAST=device.type == "cuda" and torch.version.hip is None,
            STUDENT_CAPPED=student_cap is not None,
            TEACHER_CAPPED=teacher_cap is not None,
            HAS_FACTORS=row_factors is not None,
            GRADIENT=kind.keep_gradient,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    return losses


def _formula(kind: SegmentKind) -> _Formula | None:
    divergence = kind.groups[0].divergence
    # Of exactly these types: a subclass may have formulas of its own.
    if type(divergence) is JensenShannon and 0 < divergence.beta < 1:
        # Both as float32, the rest from the share as rounded: their sum is then exactly 1.
        share = torch.tensor(divergence.beta, dtype=torch.float32)
        return _Formula(_MIXTURE, float(share), float(1 - share))
    if type(divergence) is JensenShannon:
        return _Formula(_FORWARD if divergence.beta == 0 else _REVERSE)
    if type(divergence) is ForwardKL:
        return _Formula(_FORWARD)
    return _Formula(_REVERSE) if type(divergence) is ReverseKL else None


def _width(common: int, *buffers: Tensor) -> int:
    """`common`, up to the next aligned number where all rows have that room."""
    width = -(-common // _ALIGNED_COLUMNS) * _ALIGNED_COLUMNS
    for buffer in buffers:
        stride = buffer.stride(0)
        end = buffer.storage_offset() + (len(buffer) - 1) * stride + width
        if stride < width or end * buffer.itemsize > buffer.untyped_storage().nbytes():
            return common
    return width


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None
