"""Whether labels and both models' forward passes belong to one batch.

Legend: B batch, T tokens.
"""

import torch
from torch import Tensor

from distillens_plugin.data.supervision import IGNORED
from distillens_plugin.lens.recorder import Record
from eval_harness.errors import DistillensError

_WHERE = "AttachedLens.loss"


def check_batch(labels: object, student: Record, teacher: Record | None) -> Tensor:
    """The labels, on the student's device.

    Where a model was given embeddings in place of token ids, only shapes are compared.

    Raises:
        DistillensError: no [B, T] integers, of another shape than the forward passes, other tokens
            in the two, a label that is not the token at its place, or packed rows that saw each
            other.
    """
    if not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        found = type(labels).__name__
        if isinstance(labels, Tensor):
            found = f"shape {list(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}"
        raise DistillensError(
            f"{_WHERE}: the labels are {found}, expected [B, T] token ids as transformers has "
            f"them, with {IGNORED} where nothing is supervised"
        )
    shape = student.last_hidden.shape[:2]
    if labels.shape != shape:
        raise DistillensError(
            f"{_WHERE}: the labels have shape {list(labels.shape)}, but the student ran on "
            f"{list(shape)}; give the labels of the student's last forward pass"
        )
    if teacher is not None and teacher.last_hidden.shape[:2] != shape:
        raise DistillensError(
            f"{_WHERE}: the student ran on {list(shape)} and the teacher on "
            f"{list(teacher.last_hidden.shape[:2])}; run both on the same batch"
        )
    for role, record in (("student", student), ("teacher", teacher)):
        if record is not None and record.mixed_rows is not None and record.mixed_rows.item():
            raise DistillensError(
                f"{_WHERE}: the {role} ran on packed rows (position_ids that restart) with a "
                "key-value cache, and transformers lets such rows see each other; call it with "
                "use_cache=False"
            )
    labels = labels.to(student.last_hidden.device, torch.int64)
    _check_tokens(labels, student.input_ids, None if teacher is None else teacher.input_ids)
    return labels


def _check_tokens(labels: Tensor, student_ids: Tensor | None, teacher_ids: Tensor | None) -> None:
    if student_ids is None:
        return
    supervised = labels != IGNORED
    strangers = supervised & (labels != student_ids.to(labels.device))
    apart = torch.zeros_like(supervised)
    if teacher_ids is not None:
        apart = student_ids.to(labels.device) != teacher_ids.to(labels.device)
    # One answer from the device rather than two: each waits for everything before it.
    has_strangers, is_apart = torch.stack([strangers.any(), apart.any()]).tolist()
    if is_apart:
        row, column = apart.nonzero()[0].tolist()
        raise DistillensError(
            f"{_WHERE}: row {row}, position {column}: the student ran on token "
            f"{int(student_ids[row, column])} and the teacher on {int(teacher_ids[row, column])}; "  # type: ignore[index]
            "run both on the same batch"
        )
    if has_strangers:
        row, column = strangers.nonzero()[0].tolist()
        raise DistillensError(
            f"{_WHERE}: row {row}, position {column}: the label is {int(labels[row, column])}, but "
            f"the student ran on token {int(student_ids[row, column])}; expected that token or "
            f"{IGNORED}: labels are not shifted, and belong to the student's last forward pass"
        )
