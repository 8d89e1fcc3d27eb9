"""One pass over all chunks: matrix products, blocks, and the sums that become gradients.

Legend: R rows of a row set, n rows of a chunk, D width, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from distillens_plugin.fused.group_blocks import GroupBlocks
from distillens_plugin.fused.parts import Group, Head, WalkResult
from distillens_plugin.fused.plan import (
    RowSet,
    Segment,
    aligned,
    chunks_of,
    default_chunk_rows,
)
from distillens_plugin.fused.whole_segments import WholeSegments

_WIDENED_COLUMNS = 4096


class ChunkWalker:
    """The state of one walk: `run` fills it; `loss`, then `result`, read it.

    Attributes:
        unit: factor that the gradients of `run` still need. It is 1 in float32, and a power of two
            in half precision, which keeps small coefficients from vanishing there.
    """

    def __init__(
        self,
        row_sets: list[RowSet],
        student: Head,
        teacher: Head | None,
        *,
        chunk_rows: int | None,
        entropies: bool,
        compile_blocks: bool | None,
    ) -> None:
        device = student.weight.device
        self.row_sets, self.student, self.teacher = row_sets, student, teacher
        self.student_dtype = product_dtype(student)
        self.teacher_dtype = self.student_dtype if teacher is None else product_dtype(teacher)
        wide = torch.float64 in (self.student_dtype, self.teacher_dtype)
        self.dtype = torch.float64 if wide else torch.float32
        self.common = min(student.vocab_size, (teacher or student).vocab_size)
        any_labels = any(group.is_cross_entropy for rows in row_sets for group in rows.groups)
        self.columns = student.vocab_size if any_labels else self.common
        self.chunk_rows = chunk_rows or default_chunk_rows(self.columns, device, self.student_dtype)
        self.entropies = entropies
        compiled = device.type == "cuda" if compile_blocks is None else compile_blocks
        self.blocks: GroupBlocks | WholeSegments
        if device.type == "cpu" and not compiled:
            self.blocks = GroupBlocks(
                student,
                teacher,
                columns=self.columns,
                common=self.common,
                dtype=self.dtype,
                chunk_rows=self.chunk_rows,
                entropies=entropies,
            )
        else:
            self.blocks = WholeSegments(
                student,
                teacher,
                common=self.common,
                dtype=self.dtype,
                compiled=compiled,
                entropies=entropies,
            )
        self.unit: Tensor | float = 1.0
        self.weight_gradient: Tensor | None = None
        self.bias_gradient: Tensor | None = None
        self.values: dict[str, Tensor] = {}

    def run(self, wanted: list[bool]) -> list[Tensor | None]:
        """Walk once.

        Args:
            wanted: whether each row set's rows, the weight and the bias get a gradient.
        Returns:
            Those gradients in the same order, in self.dtype, None where not wanted.
        """
        *rows_wanted, weight_wanted, bias_wanted = wanted
        for row_set, want in zip(self.row_sets, rows_wanted, strict=True):
            row_set.prepare(self.dtype, entropies=self.entropies)
            if want:
                row_set.gradient = torch.empty_like(row_set.rows, dtype=self.dtype)
        self._fold_scales()
        weight = _aligned_weight(self.student, self.columns, self.student_dtype)
        teacher_weight = None
        if self.teacher is not None:
            teacher_weight = _aligned_weight(self.teacher, self.common, self.teacher_dtype)
        if bias_wanted:
            self.bias_gradient = weight.new_zeros(self.student.vocab_size, dtype=self.dtype)
        chunks = list(chunks_of(self.row_sets, self.chunk_rows))
        buffer = weight.new_empty(_most(chunks, lambda s: s.num_rows), len(weight))
        teacher_buffer = weight.new_empty(
            _most(chunks, lambda s: s.num_rows * len(s.row_set.teachers)),
            0 if teacher_weight is None else len(teacher_weight),
            dtype=self.teacher_dtype,
        )
        for chunk in chunks:
            hidden = _stack([s.row_set.rows[s.start : s.stop] for s in chunk], self.student_dtype)
            products = torch.mm(hidden, weight.t(), out=buffer[: hidden.shape[0]])
            read = [rows[s.start : s.stop] for s in chunk for rows in s.row_set.teachers]
            if read and teacher_weight is not None:
                hidden_t = _stack(read, self.teacher_dtype)
                torch.mm(hidden_t, teacher_weight.t(), out=teacher_buffer[: hidden_t.shape[0]])
            self._run_blocks(chunk, products, teacher_buffer, keep_gradient=any(wanted))
            if any(rows_wanted):
                self._store_rows_gradient(chunk, torch.mm(products, weight))
            if weight_wanted:
                self._add_weight_gradient(chunk, products, hidden)
        weight_gradient = self.weight_gradient
        if weight_wanted and weight_gradient is None:
            weight_gradient = torch.zeros_like(self.student.weight, dtype=self.dtype)
        if weight_gradient is not None:
            weight_gradient = weight_gradient[: self.student.vocab_size]
        gradients = [row_set.gradient for row_set in self.row_sets]
        return [*gradients, weight_gradient, self.bias_gradient]

    def loss(self) -> Tensor:
        """0-d in self.dtype: the weighted sum of the groups' values."""
        total = torch.zeros(
            (), dtype=_sum_dtype(self.student.weight), device=self.student.weight.device
        )
        for row_set in self.row_sets:
            for group, losses in zip(row_set.groups, row_set.losses, strict=True):
                value = _mean(group, losses)
                self.values[group.name] = value.to(self.dtype)
                total += group.weight * value
        return total.to(self.dtype)

    def result(self, loss: Tensor) -> WalkResult:
        """The result of the walk; its loss may have a graph by now."""
        row_losses, mean_entropies = {}, {}
        for row_set in self.row_sets:
            for group, losses, pair in zip(
                row_set.groups, row_set.losses, row_set.entropies, strict=True
            ):
                row_losses[group.name] = losses
                if pair is not None:
                    means = [
                        None if rows is None else _mean(group, rows).to(self.dtype) for rows in pair
                    ]
                    student_mean, teacher_mean = means
                    assert student_mean is not None
                    mean_entropies[group.name] = (student_mean, teacher_mean)
        return WalkResult(loss, self.values, mean_entropies, row_losses)

    def _fold_scales(self) -> None:
        """In half precision, put the rows' coefficients into the gradient before it is rounded.

        Scaling the narrow matrices instead would round their products twice.
        """
        if self.student_dtype == self.dtype:
            return
        scales = [row_set.scale.abs().max() for row_set in self.row_sets if row_set.scale.numel()]
        if not scales:
            return
        largest = torch.stack(scales).max()
        self.unit = torch.where(largest > 0, largest.log2().floor().exp2(), 1.0)
        for row_set in self.row_sets:
            row_set.folded = row_set.scale / self.unit
            row_set.scale = torch.ones_like(row_set.scale)

    def _run_blocks(
        self, chunk: list[Segment], products: Tensor, teacher_buffer: Tensor, *, keep_gradient: bool
    ) -> None:
        teacher_offset = 0
        for segment in chunk:
            parts = []
            for _ in segment.row_set.teachers:
                rows = slice(teacher_offset, teacher_offset + segment.num_rows)
                parts.append(teacher_buffer[rows, : self.common])
                teacher_offset += segment.num_rows
            self.blocks.run(
                segment.row_set,
                segment.start,
                products[segment.in_chunk, : self.columns],
                parts,
                bias_gradient=self.bias_gradient,
                keep_gradient=keep_gradient,
            )

    def _store_rows_gradient(self, chunk: list[Segment], gradient: Tensor) -> None:
        for segment in chunk:
            row_set = segment.row_set
            if row_set.gradient is None:
                continue
            rows = slice(segment.start, segment.stop)
            part = gradient[segment.in_chunk].to(self.dtype)
            torch.mul(part, row_set.scale[rows].unsqueeze(-1), out=row_set.gradient[rows])

    def _add_weight_gradient(self, chunk: list[Segment], products: Tensor, hidden: Tensor) -> None:
        attached = [segment for segment in chunk if segment.row_set.attached]
        if not attached:
            return
        # Attached row sets come first, so their rows are the first of the chunk.
        num_rows = sum(segment.num_rows for segment in attached)
        scale = torch.cat([s.row_set.scale[s.start : s.stop] for s in attached])
        # The rows' coefficients go into the narrow matrix: [n, D] to scale rather than [n, V].
        scaled = (hidden[:num_rows].to(self.dtype) * scale.unsqueeze(-1)).to(hidden.dtype)
        products_t = products[:num_rows].t()
        first = self.weight_gradient is None
        computed = products.shape[1]
        if self.weight_gradient is None:
            vocab_size, width = self.student.weight.shape
            room = torch.empty if computed >= vocab_size else torch.zeros
            shape = (max(computed, vocab_size), width)
            self.weight_gradient = room(shape, dtype=self.dtype, device=hidden.device)
        target = self.weight_gradient[:computed]
        if scaled.dtype != self.dtype:
            _add_product(target, products_t, scaled, overwrite=first)
        elif first:
            torch.mm(products_t, scaled, out=target)
        else:
            target.addmm_(products_t, scaled)


def _add_product(target: Tensor, left: Tensor, right: Tensor, *, overwrite: bool) -> None:
    """target (+)= left @ right, for half-precision factors and a wider target."""
    if overwrite:
        target.zero_()
    if target.device.type == "cuda":
        # In the product itself: a sum of its own would read and write [V, D] once more.
        torch.addmm(target, left, right, out_dtype=target.dtype, out=target)
        return
    # A CPU product has the factors' type, and rounding each chunk's part to it would add up. A few
    # columns at a time are widened instead, which is also faster on CPUs without bf16 units.
    right = right.to(target.dtype)
    for start in range(0, left.shape[0], _WIDENED_COLUMNS):
        columns = slice(start, start + _WIDENED_COLUMNS)
        target[columns].addmm_(left[columns].to(target.dtype), right)


def _aligned_weight(head: Head, columns: int, dtype: torch.dtype) -> Tensor:
    """The first `columns` rows of the weight, with rows of zeros up to what the device likes.

    Their logits are 0 and so is their gradient: nothing reads or writes those columns.
    """
    weight = head.weight.detach()[:columns]
    wanted = aligned(columns, weight.device)
    if wanted == columns:
        return weight.to(dtype)
    padded = weight.new_zeros(wanted, weight.shape[1], dtype=dtype)
    padded[:columns] = weight
    return padded


def product_dtype(head: Head) -> torch.dtype:
    """The type of a head's matrix products: autocast's where it is on, else the weight's."""
    device = head.weight.device.type
    if torch.is_autocast_enabled(device) and head.weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return head.weight.dtype


def _mean(group: Group, rows: Tensor) -> Tensor:
    weights = group.weights(_sum_dtype(rows))
    return (weights * rows).sum() * group.inverse_denominator(weights)


def _sum_dtype(like: Tensor) -> torch.dtype:
    # MPS has no float64.
    return torch.float32 if like.device.type == "mps" else torch.float64


def _stack(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    rows = parts[0] if len(parts) == 1 else torch.cat([part.to(dtype) for part in parts])
    return rows.detach().to(dtype)


def _most(chunks: list[list[Segment]], count: Callable[[Segment], int]) -> int:
    return max((sum(count(segment) for segment in chunk) for chunk in chunks), default=0)
