"""What to change in a run that does not fit: the smallest change that does."""

from collections.abc import Iterator
from dataclasses import replace

from distillens_plugin.costs.activations import Adapters
from distillens_plugin.costs.precision import Precision
from distillens_plugin.costs.run import Run
from distillens_plugin.costs.shardings import Placement, Sharding, memory

_RANK = 8
_MOST_SHARERS = 1024


def smallest_change(
    run: Run, sharding: Sharding, placement: Placement, sharers: int, limit: float
) -> str | None:
    """The first of these that fits, from those that change least; None if none does.

    Order: recomputing activations, half the batch (with twice as many batches in a step), both,
    half precision in teacher and student, LoRA with all of it, and then more devices.

    Args:
        limit: bytes of a device.
    """
    for text, changed in _changes(run):
        if memory(changed, sharding, placement, sharers).peak <= limit:
            return text
    if sharding in ("fsdp2", "hsdp", "zero2"):
        number = sharers
        while number < _MOST_SHARERS:
            number *= 2
            if memory(run, sharding, placement, number).peak <= limit:
                per = " a node" if sharding == "hsdp" else ""
                return f"{number} devices{per}"
    return None


def _changes(run: Run) -> Iterator[tuple[str, Run]]:
    recomputing = replace(run, checkpointing=True)
    lean = "" if run.checkpointing else "gradient_checkpointing"
    if lean:
        yield lean, recomputing
    half = _half_types(run)
    for base, so_far in ((run, ""), (recomputing, lean), (half, _half_text(run, half, lean))):
        if base is half and half != recomputing:
            yield so_far, half
        if base is recomputing and not lean:
            continue
        yield from _smaller_batches(base, so_far)
    if run.adapters is None:
        targets = frozenset(linear.path for linear in run.student.model.modules())
        adapted = replace(half, adapters=Adapters(_RANK, targets, 0.0))
        text = " + ".join(filter(None, (_half_text(run, half, lean), "lora")))
        yield text, adapted
        yield from _smaller_batches(adapted, text)


def _smaller_batches(run: Run, so_far: str) -> Iterator[tuple[str, Run]]:
    rows = run.shape.rows
    while rows > 1 and rows % 2 == 0:
        rows //= 2
        changed = run.with_batch(rows)
        text = f"batch_size {rows}, grad_accum_step {changed.batches}"
        yield " + ".join(filter(None, (so_far, text))), changed


def _half_types(run: Run) -> Run:
    """bfloat16 for the teacher's weights and the student's products, with recomputing."""
    student = run.student
    at = Precision(student.at.weights, True, student.at.device)
    teacher = run.teacher
    if teacher is not None:
        teacher = replace(teacher, at=Precision(2, True, teacher.at.device))
    return replace(run, checkpointing=True, student=replace(student, at=at), teacher=teacher)


def _half_text(run: Run, half: Run, lean: str) -> str:
    parts = [lean]
    if not run.student.at.autocast:
        parts.append("mixed_precision bf16")
    if run.teacher is not None and half.teacher is not None:
        parts.append("teacher dtype bfloat16" if run.teacher.at.weights > 2 else "")
    return " + ".join(filter(None, parts))
