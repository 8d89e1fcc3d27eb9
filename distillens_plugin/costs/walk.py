"""What the pass over the vocabulary takes: the arithmetic of `fused/plan.py` and `fused/chunks.py`.

Written again here, since those import torch; a test holds the two against each other. docs/gpu.md
has what a GPU measured.
"""

from dataclasses import dataclass

from distillens_plugin.costs.architecture import Architecture
from distillens_plugin.costs.precision import Device, Precision

_CPU_ELEMENTS = 256 * 50304
_GPU_BYTES = 2**29
_ROWS = (256, 4096)
_GPU_COLUMNS = 64


@dataclass(frozen=True)
class WalkRows:
    """What the loss terms ask the walk for.

    Attributes:
        row_sets: kinds of student rows (the final states, each lens layer), each of N rows.
        with_teacher: how many of them are compared with a teacher's rows.
        labels: whether cross-entropy reads all of the student's vocabulary.
    """

    row_sets: int
    with_teacher: int
    labels: bool


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
    """Memory of one walk.

    Args:
        num_rows: N, supervised positions of the batch.
        student, teacher: models and types.
        trains_head: the unembedding gets a gradient (not under LoRA).
        given_chunk_rows: the recipe's; None lets the walk choose.
    """
    if rows.row_sets == 0 or num_rows == 0:
        return WalkBytes(0, 0)
    model, at = student
    common = min(model.vocab_size, teacher[0].vocab_size) if teacher else model.vocab_size
    columns = model.vocab_size if rows.labels else common
    computed = aligned(columns, at.device)
    total = rows.row_sets * num_rows
    limit = given_chunk_rows or chunk_rows(columns, at.device, at.products)
    size = -(-total // -(-total // limit))
    chunk = size * computed * at.products
    kept = total * model.head_width * (at.stream + 4)
    if at.casts or computed != columns:
        chunk += computed * model.head_width * at.products
    if trains_head:
        kept += max(computed, model.vocab_size) * model.head_width * 4
    if teacher is not None and rows.with_teacher:
        theirs, their_type = teacher
        products = 2 if at.autocast else their_type.weights
        read = aligned(common, at.device)
        chunk += size * read * products
        if products != their_type.weights or read != common:
            chunk += read * theirs.head_width * products
        kept += rows.with_teacher * num_rows * theirs.head_width * their_type.weights
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
        flops += 2.0 * teacher.head_parameters * rows.with_teacher * num_rows
    return flops
