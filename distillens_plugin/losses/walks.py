"""The fused walk over the groups of a sum's terms, on the student's device and in its type."""

import torch

from distillens_plugin.fused import Group, WalkResult, walk
from distillens_plugin.losses.reading import Reading


def walk_in_type(
    groups: list[Group], reading: Reading, readout: str, chunk_rows: int | None
) -> WalkResult:
    """One fused walk in the type that the student's own matrix products ran in.

    torchdistill computes the loss outside autocast, so the type is carried over from the forward.
    The walk runs where the student's head is; rows and the teacher's head may come from elsewhere.

    Args:
        readout: whose head reads the student's rows; the teacher's gets no gradient.
    """
    student, head = reading.student, reading.student.lens.head()
    device, dtype = head.weight.device, student.autocast_dtype
    needs_teacher = any(group.teacher_rows is not None for group in groups)
    teacher = reading.teacher.lens.head_on(device) if needs_teacher else None
    if readout == "teacher":
        assert teacher is not None  # only a comparison with the teacher is read by its head
        head = teacher.detached()
    groups = [group.to(device) for group in groups]
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        return walk(groups, head, teacher, chunk_rows=chunk_rows)
