"""The elementwise part of the walk for a whole segment: what a GPU compiles into few passes.

From the raw products of both models to the losses, with the gradient written over the student's
products. Everything between is in float32 (float64), also where the products are in half precision,
and is written without scratch memory: the compiler keeps it in registers.

Legend: r rows of a segment, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distillens_plugin.divergences.protocol import Divergence, FusedDivergence
from distillens_plugin.fused.blocks import BlockResult, cross_entropy_block, divergence_block
from distillens_plugin.fused.parts import CrossEntropy, Head


@dataclass(frozen=True)
class GroupKind:
    """What one group computes; `teacher` is the number of its rows among the segment's teachers."""

    divergence: Divergence | CrossEntropy
    temperature: float
    teacher: int | None


@dataclass(frozen=True)
class SegmentKind:
    """All that a compiled segment holds fixed; hashable if all its divergences are.

    Attributes:
        student, teacher: scale and soft-cap of the heads.
        common: how many ids a divergence reads; cross-entropy reads all of the student's.
        dtype: of the arithmetic.
    """

    groups: tuple[GroupKind, ...]
    student: tuple[float, float | None]
    teacher: tuple[float, float | None]
    common: int
    dtype: torch.dtype
    entropies: bool
    keep_gradient: bool

    @property
    def is_fused(self) -> bool:
        """Whether every gradient is written out, so that it can be compiled."""
        return all(isinstance(g.divergence, CrossEntropy | FusedDivergence) for g in self.groups)

    @property
    def name(self) -> str:
        """For messages: the divergences' names."""
        return "+".join(dict.fromkeys(group.divergence.name for group in self.groups))


class SegmentResult(NamedTuple):
    """Losses [r] of each group; student's and teacher's entropies; the bias's gradient [V]."""

    losses: list[Tensor]
    entropies: list[tuple[Tensor | None, Tensor | None]]
    bias_gradient: Tensor | None


def head_kind(head: Head | None) -> tuple[float, float | None]:
    """Scale and soft-cap."""
    return (1.0, None) if head is None else (head.scale, head.softcap)


def segment_block(
    kind: SegmentKind,
    products: Tensor,
    teachers: Sequence[Tensor],
    student_bias: Tensor | None,
    teacher_bias: Tensor | None,
    labels: Sequence[Tensor | None],
    shares: Sequence[Tensor] | None,
    row_factors: Tensor | None,
    bias_factors: Tensor | None,
) -> SegmentResult:
    """One segment; with `keep_gradient` the gradient is written over `products`.

    Args:
        products: [r, V_s], the student's, raw.
        teachers: [r, common] each, the teacher's.
        student_bias, teacher_bias: [V_s], [common].
        labels: [r] for each group of cross-entropy.
        shares: [r] for each group, its factor in the gradient; None for a single group.
        row_factors: [r], a factor of the gradient.
        bias_factors: [r], the rows' factors in the bias's gradient; None if it gets none.
    """
    logits = _logits(products.to(kind.dtype), student_bias, kind.student)
    read = [_logits(part.to(kind.dtype), teacher_bias, kind.teacher) for part in teachers]
    losses, entropies = [], []
    gradient: Tensor | None = None
    for index, group in enumerate(kind.groups):
        teacher = None if group.teacher is None else read[group.teacher]
        result = _one(kind, group, logits, teacher, labels[index])
        losses.append(result.losses)
        entropies.append((result.student_entropy, result.teacher_entropy))
        part = result.gradient
        if part is None or not kind.keep_gradient:
            continue
        if group.temperature != 1:
            part = part * (1 / group.temperature)
        if shares is not None:
            part = part * shares[index].unsqueeze(-1)
        gradient = part if gradient is None else _sum(gradient, part)
    if gradient is None:
        return SegmentResult(losses, entropies, None)
    columns = gradient.shape[1]
    scale, softcap = kind.student
    if softcap is not None:
        gradient = gradient * (1 - (logits[:, :columns] / softcap).square())
    if scale != 1:
        gradient = gradient * scale
    if row_factors is not None:
        gradient = gradient * row_factors.unsqueeze(-1)
    bias_gradient = None
    if bias_factors is not None:
        bias_gradient = (gradient * bias_factors.unsqueeze(-1)).sum(0)
    products[:, :columns].copy_(gradient)
    if columns < products.shape[1]:
        products[:, columns:].zero_()
    return SegmentResult(losses, entropies, bias_gradient)


def _one(
    kind: SegmentKind,
    group: GroupKind,
    logits: Tensor,
    teacher: Tensor | None,
    labels: Tensor | None,
) -> BlockResult:
    divergence, allocate = group.divergence, torch.empty_like
    if isinstance(divergence, CrossEntropy) or teacher is None:
        assert labels is not None
        logits = _cool(logits, group.temperature)
        return cross_entropy_block(
            labels, logits, allocate, entropies=kind.entropies, check_on_host=False
        )
    logits = _cool(logits[:, : kind.common], group.temperature)
    return divergence_block(
        divergence,
        _cool(teacher, group.temperature),
        logits,
        allocate,
        entropies=kind.entropies,
        keep_gradient=kind.keep_gradient,
        check_on_host=False,
    )


def _logits(
    products: Tensor, bias: Tensor | None, scale_and_softcap: tuple[float, float | None]
) -> Tensor:
    scale, softcap = scale_and_softcap
    logits = products if bias is None else products + bias
    logits = logits if scale == 1 else logits * scale
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _cool(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits * (1 / temperature)


def _sum(left: Tensor, right: Tensor) -> Tensor:
    """Of gradients [r, V] of which one may lack the other's last columns."""
    missing = left.shape[1] - right.shape[1]
    if missing > 0:
        right = torch.nn.functional.pad(right, (0, missing))
    elif missing < 0:
        left = torch.nn.functional.pad(left, (0, -missing))
    return left + right
