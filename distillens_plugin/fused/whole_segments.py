"""Runs the elementwise part of the walk a whole segment at a time: by the Triton kernel where it
knows the formula, else compiled where that can be."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillens_plugin.fused.compiled import compiled_segment
from distillens_plugin.fused.parts import Head
from distillens_plugin.fused.plan import RowSet
from distillens_plugin.fused.segment import (
    GroupKind,
    SegmentKind,
    SegmentResult,
    head_kind,
    segment_block,
)
from distillens_plugin.fused.triton_segment import takes, triton_segment


class WholeSegments:
    """What `GroupBlocks` does, for devices that want all rows at once.

    Args:
        student, teacher: the heads, for their bias, scale and soft-cap.
        common: how many ids a divergence reads.
        dtype: of the elementwise arithmetic.
        compiled: run it by the Triton kernel or through torch.compile; divergences without a
            gradient of their own never are.
    """

    def __init__(
        self,
        student: Head,
        teacher: Head | None,
        *,
        common: int,
        dtype: torch.dtype,
        compiled: bool,
        entropies: bool,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.common, self.dtype = common, dtype
        self.compiled, self.entropies = compiled, entropies

    def run(
        self,
        row_set: RowSet,
        start: int,
        student_products: Tensor,
        teacher_products: Sequence[Tensor],
        *,
        bias_gradient: Tensor | None,
        keep_gradient: bool,
    ) -> None:
        """From row `start` on: fills the losses and writes the gradient over the products."""
        rows = slice(start, start + student_products.shape[0])
        kind = self._kind(row_set, keep_gradient=keep_gradient)
        wants_bias = keep_gradient and bias_gradient is not None and row_set.attached
        teachers = list(teacher_products)
        student_bias = _bias(self.student, student_products)
        teacher_bias = _bias(self.teacher, *teachers[:1])
        factors = None if row_set.folded is None else row_set.folded[rows]
        bias_factors = row_set.scale[rows] if wants_bias else None
        result: SegmentResult | None = None
        if self.compiled and takes(
            kind, student_products, teachers, student_bias, teacher_bias, bias_factors
        ):
            result = triton_segment(kind, student_products, teachers[0], factors)
        if result is None:
            tensors = (
                student_products,
                teachers,
                student_bias,
                teacher_bias,
                [_labels(group.labels, rows, student_products.device) for group in row_set.groups],
                None if row_set.shares is None else [share[rows] for share in row_set.shares],
                factors,
                bias_factors,
            )
            whole = compiled_segment(kind) if self.compiled and kind.is_fused else None
            result = segment_block(kind, *tensors) if whole is None else whole(*tensors)
        for index, (student_entropy, teacher_entropy) in enumerate(result.entropies):
            row_set.losses[index][rows] = result.losses[index]
            room = row_set.entropies[index]
            if room is not None and student_entropy is not None:
                room[0][rows] = student_entropy
                if room[1] is not None and teacher_entropy is not None:
                    room[1][rows] = teacher_entropy
        if bias_gradient is not None and result.bias_gradient is not None:
            bias_gradient[: len(result.bias_gradient)] += result.bias_gradient

    def _kind(self, row_set: RowSet, *, keep_gradient: bool) -> SegmentKind:
        groups = [
            GroupKind(group.divergence, float(group.temperature), teacher)
            for group, teacher in zip(row_set.groups, row_set.teacher_of, strict=True)
        ]
        return SegmentKind(
            tuple(groups),
            head_kind(self.student),
            head_kind(self.teacher),
            self.common,
            self.dtype,
            self.entropies,
            keep_gradient,
        )


def _bias(head: Head | None, *products: Tensor) -> Tensor | None:
    if head is None or head.bias is None or not products:
        return None
    return head.bias.detach()[: products[0].shape[1]]


def _labels(labels: Tensor | None, rows: slice, device: torch.device) -> Tensor | None:
    return None if labels is None else labels[rows].to(device)
