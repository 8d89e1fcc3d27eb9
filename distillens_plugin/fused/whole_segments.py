"""Runs the elementwise part of the walk a whole segment at a time, compiled where it can be."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillens_plugin.fused.compiled import compiled_segment
from distillens_plugin.fused.parts import Head
from distillens_plugin.fused.plan import RowSet
from distillens_plugin.fused.segment import (
    GroupKind,
    SegmentKind,
    head_kind,
    segment_block,
)


class WholeSegments:
    """What `GroupBlocks` does, for devices that want all rows at once.

    Args:
        student, teacher: the heads, for their bias, scale and soft-cap.
        common: how many ids a divergence reads.
        dtype: of the elementwise arithmetic.
        compiled: run it through torch.compile; divergences without a gradient of their own never
            are.
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
        tensors = (
            student_products,
            list(teacher_products),
            _bias(self.student, student_products),
            _bias(self.teacher, *teacher_products[:1]),
            [_labels(group.labels, rows, student_products.device) for group in row_set.groups],
            None if row_set.shares is None else [share[rows] for share in row_set.shares],
            None if row_set.folded is None else row_set.folded[rows],
            row_set.scale[rows] if wants_bias else None,
        )
        if self.compiled and kind.is_fused:
            result = compiled_segment(kind)(*tensors)
        else:
            result = segment_block(kind, *tensors)
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
