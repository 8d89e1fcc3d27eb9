"""The walk as plain autograd over whole [R, V] logits: the reference that the fused one must equal.

Simple rather than fast: memory grows with rows x vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distillens_plugin.fused.parts import CrossEntropy, Group, Head, WalkResult, check_groups


def head_logits(rows: Tensor, head: Head, num_columns: int | None = None) -> Tensor:
    """[R, V] logits of a head, in float32 (float64 for float64), for the first `num_columns` ids.

    The matrix product runs in the weight's type, or autocast's where that is on.
    """
    device = rows.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else head.weight.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast(device, enabled=False):
        logits = F.linear(rows.to(dtype), head.weight[:num_columns].to(dtype)).to(wide)
        if head.bias is not None:
            logits = logits + head.bias[:num_columns].to(wide)
        logits = logits * head.scale
        if head.softcap is not None:
            logits = torch.tanh(logits / head.softcap) * head.softcap
    return logits


def walk_naive(
    groups: list[Group],
    student: Head,
    teacher: Head | None = None,
    *,
    chunk_rows: int | None = None,
    entropies: bool = False,
) -> WalkResult:
    """As `fused.walk`, by plain autograd; all rows go at once, so `chunk_rows` changes nothing."""
    check_groups(groups, student, teacher)
    values, row_losses = {}, {}
    mean_entropies: dict[str, tuple[Tensor, Tensor | None]] = {}
    loss = student.weight.new_zeros((), dtype=torch.float32)
    for group in groups:
        head = student
        if group.detach_unembedding:
            bias = None if student.bias is None else student.bias.detach()
            head = Head(student.weight.detach(), bias, student.softcap, student.scale)
        teacher_logits = None
        if (
            isinstance(teacher, Head)
            and group.teacher_rows is not None
            and not group.is_cross_entropy
        ):
            columns = min(student.vocab_size, teacher.vocab_size)
            with torch.no_grad():
                teacher_logits = (
                    head_logits(group.teacher_rows, teacher, columns) / group.temperature
                )
            student_logits = head_logits(group.student_rows, head, columns) / group.temperature
            assert not isinstance(group.divergence, CrossEntropy)
            rows = group.divergence(teacher_logits, student_logits)
        else:
            student_logits = head_logits(group.student_rows, head) / group.temperature
            assert group.labels is not None
            rows = F.cross_entropy(student_logits, group.labels, reduction="none")
        weights = group.weights(rows.dtype)
        inverse = group.inverse_denominator(weights)
        value = (weights * rows).sum() * inverse
        values[group.name], row_losses[group.name] = value.detach(), rows
        loss = loss + group.weight * value
        if entropies:
            means = [
                (_entropy(logits.detach()) * weights).sum() * inverse
                for logits in (student_logits, teacher_logits)
                if logits is not None
            ]
            mean_entropies[group.name] = (means[0], means[1] if len(means) > 1 else None)
    return WalkResult(loss, values, mean_entropies, row_losses)


def _entropy(logits: Tensor) -> Tensor:
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs.clamp_min(-1e30)).sum(-1)
