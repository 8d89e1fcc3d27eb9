"""How the rows of all groups are laid out in one walk, and split into chunks.

Groups that share a `student_rows` object form one row set. Row sets are laid end to end and split
into chunks as a whole, so that few rows per layer do not mean small matrix products.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distillens_plugin.fused.parts import Group

# Chunks of 256 rows; 512 is as fast, 128 and 64 are clearly slower, since every chunk reads and
# writes all of grad_W (docs/fused.md).
_CHUNK_ELEMENTS_CPU = 256 * 50304
# A GPU wants larger products and has the memory: 512 MiB of logits per model.
_CHUNK_BYTES_GPU = 2**29
_CHUNK_ROWS = (256, 4096)
# Tensor cores want rows that begin at multiples of 16 bytes; GPT-2's 50,257 ids in half precision
# make products six times slower on an H100 (docs/gpu.md). A CPU does not mind.
ALIGNED_COLUMNS = {"cpu": 1}
_ALIGNED_COLUMNS_GPU = 64


@dataclass(eq=False)
class RowSet:
    """Groups over the same student rows.

    Attributes:
        rows: [R, D_s] student rows.
        attached: whether the student's head gets a gradient from these rows.
        groups: the groups; teacher_of[i] is the index in `teachers` of group i's rows, or None.
        teachers: [R, D_t] each, the distinct teacher rows.
        losses: per group, [R], filled by the walk; entropies: per group, (student, teacher) [R].
        scale: [R], the coefficient of a row's stored gradient in the loss.
        folded: [R], what the stored gradient is multiplied by; None is 1.
        shares: per group, [R], its part in the stored gradient; None if there is only one group.
        gradient: [R, D_s] towards the rows, filled by the walk if wanted.
    """

    rows: Tensor
    attached: bool
    groups: list[Group] = field(default_factory=list)
    teachers: list[Tensor] = field(default_factory=list)
    teacher_of: list[int | None] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    entropies: list[tuple[Tensor, Tensor | None] | None] = field(default_factory=list)
    scale: Tensor = field(default_factory=lambda: torch.empty(0))
    folded: Tensor | None = None
    shares: list[Tensor] | None = None
    gradient: Tensor | None = None

    def add(self, group: Group) -> None:
        self.groups.append(group)
        if group.is_cross_entropy or group.teacher_rows is None:
            self.teacher_of.append(None)
            return
        for index, rows in enumerate(self.teachers):
            if rows is group.teacher_rows:
                self.teacher_of.append(index)
                return
        self.teachers.append(group.teacher_rows)
        self.teacher_of.append(len(self.teachers) - 1)

    def prepare(self, dtype: torch.dtype, *, entropies: bool) -> None:
        """Make room for the losses, and split each group's coefficient into scale and share."""
        num_rows = self.rows.shape[0]
        coefficients = []
        for group in self.groups:
            weights = group.weights(dtype)
            coefficients.append(weights * (group.inverse_denominator(weights) * group.weight))
            room = [self.rows.new_zeros(num_rows, dtype=dtype) for _ in range(3)]
            self.losses.append(room[0])
            teacher = None if group.is_cross_entropy else room[2]
            self.entropies.append((room[1], teacher) if entropies else None)
        if len(coefficients) == 1:
            # The gradient is stored unscaled and the rows of the small matrices are scaled instead.
            self.scale = coefficients[0]
            return
        largest = torch.stack(coefficients).abs().amax(0)
        divisor = torch.where(largest > 0, largest, 1.0)
        self.scale = largest
        self.shares = [coefficient / divisor for coefficient in coefficients]


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows [start, stop) of a row set, at `offset` in its chunk."""

    row_set: RowSet
    start: int
    stop: int
    offset: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    @property
    def in_chunk(self) -> slice:
        return slice(self.offset, self.offset + self.num_rows)


def row_sets_of(groups: list[Group]) -> list[RowSet]:
    """The row sets of these groups; those that reach the unembedding come first."""
    found: dict[tuple[int, bool], RowSet] = {}
    for group in groups:
        attached = not group.detach_unembedding
        key = (id(group.student_rows), attached)
        found.setdefault(key, RowSet(group.student_rows, attached)).add(group)
    return sorted(found.values(), key=lambda row_set: not row_set.attached)


def chunks_of(row_sets: list[RowSet], chunk_rows: int) -> Iterator[list[Segment]]:
    """Split the row sets, laid end to end, into even chunks of at most `chunk_rows` rows."""
    total = sum(row_set.rows.shape[0] for row_set in row_sets)
    if total == 0:
        return
    size = -(-total // -(-total // chunk_rows))
    chunk: list[Segment] = []
    used = 0
    for row_set in row_sets:
        start, num_rows = 0, row_set.rows.shape[0]
        while start < num_rows:
            stop = min(num_rows, start + size - used)
            chunk.append(Segment(row_set, start, stop, used))
            used += stop - start
            start = stop
            if used == size:
                yield chunk
                chunk, used = [], 0
    if chunk:
        yield chunk


def default_chunk_rows(vocab_size: int, device: torch.device, dtype: torch.dtype) -> int:
    """Rows per chunk for this vocabulary on this device, with logits of this type."""
    elements = _CHUNK_ELEMENTS_CPU if device.type == "cpu" else _CHUNK_BYTES_GPU // dtype.itemsize
    least, most = _CHUNK_ROWS
    return max(least, min(most, elements // max(1, vocab_size)))


def aligned(columns: int, device: torch.device) -> int:
    """The number of columns to compute so that this device's products are fast."""
    step = ALIGNED_COLUMNS.get(device.type, _ALIGNED_COLUMNS_GPU)
    return -(-columns // step) * step
