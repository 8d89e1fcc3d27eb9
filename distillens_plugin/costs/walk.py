"""What the pass over the vocabulary takes: the arithmetic of `fused/plan.py` and `fused/chunks.py`.

Written again here, since those import torch; a test holds the two against each other. docs/gpu.md
has what a GPU measured.
"""

import math
from dataclasses import dataclass, replace

from distillens_plugin.costs.architecture import Architecture
from distillens_plugin.costs.precision import Device, Precision

_CPU_ELEMENTS = 256 * 50304
_GPU_BYTES = 2**29
_ROWS = (256, 4096)
_GPU_COLUMNS = 64
# The rows that a trained map gives to the teacher's head are float32.
_MAPPED_BYTES = 4


@dataclass(frozen=True)
class WalkRows:
    """What the loss terms ask the walk for.

    Attributes:
        row_sets: kinds of student rows (the final states, each lens layer) that the student's head
            reads, each of N rows; of a share of the positions, that share.
        with_teacher: how many rows' sets are compared with a teacher's rows.
        labels: whether cross-entropy reads all of the student's vocabulary.
        by_teacher: kinds of student rows that the teacher's head reads, in a walk of their own.
        entropies: whether the teacher's final states are read once more, for their entropy.
    """

    row_sets: float
    with_teacher: float
    labels: bool
    by_teacher: float = 0.0
    entropies: bool = False


@dataclass(frozen=True)
class WalkBytes:
    """Bytes until the backward pass has used the gradients, and only while walking."""

    kept: int
    chunk: int


def chunk_rows(columns: int, device: Device, item_bytes: int) -> int:
    """Rows at a time, as `fused.plan.default_chunk_rows` chooses."""
    elements = _CPU_ELEMENTS if device == "cpu" else _GPU_BYTES // item_bytes
    return max(_ROWS[0], min(_ROWS[1], elements // max(1, columns)))


def aligned(columns: int, device: Device) -> int:
    """Columns that are computed, as `fused.plan.aligned`."""
    step = 1 if device == "cpu" else _GPU_COLUMNS
    return -(-columns // step) * step


def walk_bytes(
    rows: WalkRows,
    num_rows: int,
    student: tuple[Architecture, Precision],
    teacher: tuple[Architecture, Precision] | None,
    *,
    trains_head: bool,
    given_chunk_rows: int | None,
) -> WalkBytes:
    """Memory of one step's walks, which run one after the other.

    Args:
        num_rows: N, supervised positions of the batch.
        student, teacher: models and types.
        trains_head: the unembedding gets a gradient (not under LoRA).
        given_chunk_rows: the recipe's; None lets the walk choose.
    """
    own = rows.with_teacher - rows.by_teacher
    found = _one_walk(
        _rows_of(rows.row_sets, num_rows),
        _rows_of(own, num_rows),
        student,
        teacher,
        all_columns=rows.labels,
        stream=student[1].stream,
        trains_head=trains_head,
        limit=given_chunk_rows,
    )
    if teacher is None or rows.by_teacher == 0:
        return found
    mapped = _rows_of(rows.by_teacher, num_rows)
    at = replace(teacher[1], autocast=student[1].autocast)
    second = _one_walk(
        mapped,
        mapped,
        (teacher[0], at),
        teacher,
        all_columns=False,
        stream=_MAPPED_BYTES,
        trains_head=False,
        limit=given_chunk_rows,
    )
    return WalkBytes(found.kept + second.kept, max(found.chunk, second.chunk))


def _rows_of(sets: float, num_rows: int) -> int:
    return math.ceil(sets * num_rows)


def _one_walk(
    total: int,
    compared: int,
    student: tuple[Architecture, Precision],
    teacher: tuple[Architecture, Precision] | None,
    *,
    all_columns: bool,
    stream: int,
    trains_head: bool,
    limit: int | None,
) -> WalkBytes:
    """Of `total` rows that one head reads, `compared` of them with a teacher's."""
    if total == 0:
        return WalkBytes(0, 0)
    model, at = student
    common = min(model.vocab_size, teacher[0].vocab_size) if teacher else model.vocab_size
    columns = model.vocab_size if all_columns else common
    computed = aligned(columns, at.device)
    limit = limit or chunk_rows(columns, at.device, at.products)
    size = -(-total // -(-total // limit))
    chunk = size * computed * at.products
    kept = total * model.head_width * (stream + 4)
    if at.casts or computed != columns:
        chunk += computed * model.head_width * at.products
    if trains_head:
        kept += max(computed, model.vocab_size) * model.head_width * 4
    if teacher is not None and compared:
        theirs, their_type = teacher
        products = 2 if at.autocast else their_type.weights
        read = aligned(common, at.device)
        chunk += size * read * products
        if products != their_type.weights or read != common:
            chunk += read * theirs.head_width * products
        kept += compared * theirs.head_width * their_type.weights
    return WalkBytes(kept, chunk)


def walk_flops(
    rows: WalkRows,
    num_rows: int,
    student: Architecture,
    teacher: Architecture | None,
    *,
    trains_head: bool,
) -> float:
    """Matrix products: both models' logits, and the gradients of rows and head."""
    passes = 3 if trains_head else 2
    flops = 2.0 * student.head_parameters * rows.row_sets * num_rows * passes
    if teacher is not None:
        # The frozen head takes no gradient, and the rows that it reads do.
        products = rows.with_teacher + 2 * rows.by_teacher + rows.entropies
        flops += 2.0 * teacher.head_parameters * products * num_rows
    return flops
