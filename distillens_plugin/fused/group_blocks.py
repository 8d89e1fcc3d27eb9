"""From the raw products of one segment to its losses, with the gradient written over the products.

Legend: r rows of a block, V vocabulary.
"""

import torch
from torch import Tensor

from distillens_plugin.fused.blocks import (
    BlockResult,
    Scratch,
    cross_entropy_block,
    divergence_block,
)
from distillens_plugin.fused.parts import CrossEntropy, Group, Head
from distillens_plugin.fused.plan import RowSet

# Elements of one scratch buffer of a block: two rows of GPT-2's vocabulary, 400 kB in float32. Five
# such buffers fit a 2 MB second-level cache.
_BLOCK_ELEMENTS = 2 * 50304
# Each thread works on its own part of a block, so that the caches of all of them count; the bound
# keeps the scratch memory under 40 MB.
_MOST_THREADS = 16


class GroupBlocks:
    """Runs the elementwise part on a CPU, a block of rows at a time in reused scratch memory.

    Args:
        student, teacher: the heads, for their bias, scale and soft-cap.
        columns: how many of the student's ids are computed; common: how many a divergence reads.
        dtype: of the elementwise arithmetic.
        chunk_rows: the largest number of rows at a time.
    """

    def __init__(
        self,
        student: Head,
        teacher: Head | None,
        *,
        columns: int,
        common: int,
        dtype: torch.dtype,
        chunk_rows: int,
        entropies: bool,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.common, self.dtype, self.entropies = common, dtype, entropies
        cached = _BLOCK_ELEMENTS * min(torch.get_num_threads(), _MOST_THREADS)
        cached_rows = max(1, cached // max(1, columns))
        self.block_rows = min(cached_rows, chunk_rows)
        self.scratch = Scratch(self.block_rows * columns, dtype)

    def run(
        self,
        row_set: RowSet,
        start: int,
        student_products: Tensor,
        teacher_products: list[Tensor],
        *,
        bias_gradient: Tensor | None,
        keep_gradient: bool,
    ) -> None:
        """From row `start` on: fills the losses and writes the gradient over the products."""
        for first in range(0, student_products.shape[0], self.block_rows):
            block = slice(first, first + self.block_rows)
            products = student_products[block]
            rows = slice(start + first, start + first + products.shape[0])
            self.scratch.used = 0
            logits = self._logits(products, self.student)
            teachers = [self._logits(part[block], self.teacher) for part in teacher_products]
            gradient = self._gradient(row_set, rows, logits, teachers, keep=keep_gradient)
            if gradient is None:
                continue
            if self.student.softcap is not None:
                slope = torch.div(logits, self.student.softcap, out=self._take(logits))
                slope.square_().neg_().add_(1)
                gradient.mul_(slope[:, : gradient.shape[1]])
            if self.student.scale != 1:
                gradient.mul_(self.student.scale)
            if row_set.folded is not None:
                gradient.mul_(row_set.folded[rows].unsqueeze(-1))
            if bias_gradient is not None and row_set.attached:
                bias_gradient[: gradient.shape[1]].addmv_(gradient.t(), row_set.scale[rows])
            products[:, : gradient.shape[1]].copy_(gradient)
            products[:, gradient.shape[1] :].zero_()

    def _gradient(
        self, row_set: RowSet, rows: slice, logits: Tensor, teachers: list[Tensor], *, keep: bool
    ) -> Tensor | None:
        """The gradient of all groups of a row set towards the logits, in their shares."""
        total: Tensor | None = None
        scratch = self.scratch
        if row_set.shares is not None and keep:
            widest = (
                logits if any(g.is_cross_entropy for g in row_set.groups) else self._cut(logits)
            )
            total = self._take(widest).zero_()
        for index, group in enumerate(row_set.groups):
            used = scratch.used
            teacher_index = row_set.teacher_of[index]
            teacher = None if teacher_index is None else teachers[teacher_index]
            result = self._one(group, rows, logits, teacher, keep)
            row_set.losses[index][rows] = result.losses
            entropies = row_set.entropies[index]
            if entropies is not None and result.student_entropy is not None:
                entropies[0][rows] = result.student_entropy
                if entropies[1] is not None and result.teacher_entropy is not None:
                    entropies[1][rows] = result.teacher_entropy
            gradient = result.gradient
            if gradient is None or not keep:
                scratch.used = used
                continue
            if group.temperature != 1:
                gradient.mul_(1 / group.temperature)
            if row_set.shares is None or total is None:
                return gradient
            share = row_set.shares[index][rows].unsqueeze(-1)
            total[:, : gradient.shape[1]].addcmul_(gradient, share)
            scratch.used = used
        return total

    def _one(
        self, group: Group, rows: slice, logits: Tensor, teacher: Tensor | None, keep: bool
    ) -> BlockResult:
        divergence = group.divergence
        if isinstance(divergence, CrossEntropy) or teacher is None:
            assert group.labels is not None
            logits = self._cool(logits, group.temperature)
            labels = group.labels[rows].to(logits.device)
            return cross_entropy_block(labels, logits, self._take, entropies=self.entropies)
        teacher = self._cool(teacher, group.temperature)
        logits = self._cool(self._cut(logits), group.temperature)
        return divergence_block(
            divergence,
            teacher,
            logits,
            self._take,
            entropies=self.entropies,
            keep_gradient=keep,
        )

    def _cut(self, logits: Tensor) -> Tensor:
        return logits[:, : self.common]

    def _cool(self, logits: Tensor, temperature: float) -> Tensor:
        if temperature == 1:
            return logits
        return torch.mul(logits, 1 / temperature, out=self._take(logits))

    def _take(self, like: Tensor) -> Tensor:
        return self.scratch.take(like)

    def _logits(self, products: Tensor, head: Head | None) -> Tensor:
        """The head's logits in self.dtype, written over the products if those have that type."""
        logits = products
        if products.dtype != self.dtype:
            logits = self._take(products).copy_(products)
        if head is None:
            return logits
        if head.bias is not None:
            logits.add_(head.bias.detach()[: logits.shape[1]])
        if head.scale != 1:
            logits.mul_(head.scale)
        if head.softcap is not None:
            logits.div_(head.softcap).tanh_().mul_(head.softcap)
        return logits
