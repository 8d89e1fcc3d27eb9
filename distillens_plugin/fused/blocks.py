"""The elementwise part of the walk: from logits of a block of rows to their losses and gradients.

On a CPU a block is so few rows that its scratch memory stays in the core's second-level cache,
which is what makes a dozen passes over it cheap. On a GPU a block is a whole chunk and the passes
are compiled into one (see compiled.py).

Legend: r rows of a block, V vocabulary.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from distillens_plugin.divergences.protocol import Divergence, FusedDivergence
from distillens_plugin.divergences.softmax import FLOOR, Allocate, SoftmaxRows, softmax_rows


class BlockResult(NamedTuple):
    """What one group gets from one block.

    Attributes:
        losses: [r] in nats.
        gradient: [r, V] of each row's loss towards the student's logits; None where it is not kept
            and would cost a backward pass of its own.
        student_entropy, teacher_entropy: [r] in nats, or None where not asked for.
    """

    losses: Tensor
    gradient: Tensor | None
    student_entropy: Tensor | None = None
    teacher_entropy: Tensor | None = None


class Scratch:
    """A stack of reused buffers; `take` gives the next one, uninitialised, in a tensor's shape."""

    def __init__(self, num_elements: int, dtype: torch.dtype) -> None:
        self.num_elements = num_elements
        self.dtype = dtype
        self.buffers: list[Tensor] = []
        self.used = 0

    def take(self, like: Tensor) -> Tensor:
        if self.used == len(self.buffers):
            self.buffers.append(torch.empty(self.num_elements, dtype=self.dtype))
        self.used += 1
        return self.buffers[self.used - 1][: like.numel()].view(like.shape)


def divergence_block(
    divergence: Divergence,
    teacher_logits: Tensor,
    student_logits: Tensor,
    allocate: Allocate,
    *,
    entropies: bool = False,
    keep_gradient: bool = True,
    check_on_host: bool = True,
) -> BlockResult:
    """Losses and gradient of a divergence for [r, V] logits of both models, left unchanged.

    Args:
        keep_gradient: False where nothing reads it.
        check_on_host: test on the host for -inf columns, and mask them only if there are any;
            otherwise always mask them, which costs a GPU nothing and spares it a wait.
    """
    both: tuple[Tensor | None, Tensor | None] = (None, None)
    if not isinstance(divergence, FusedDivergence):
        if entropies:
            both = _entropies(teacher_logits, student_logits, allocate)
        call = _by_autograd if keep_gradient else _value_alone
        return BlockResult(*call(divergence, teacher_logits, student_logits), *both)
    absent: Tensor | None = None
    if not (check_on_host and _all_finite(teacher_logits) and _all_finite(student_logits)):
        absent = torch.isneginf(teacher_logits) | torch.isneginf(student_logits)
    teacher = softmax_rows(teacher_logits, allocate, absent)
    student = softmax_rows(student_logits, allocate, absent)
    if entropies:
        product = allocate(student_logits)
        both = (student.entropy(product), teacher.entropy(product))
    losses, gradient = divergence.loss_and_gradient(teacher, student, allocate)
    if absent is not None:
        gradient.masked_fill_(absent, 0)
    return BlockResult(losses, gradient, *both)


def cross_entropy_block(
    labels: Tensor,
    student_logits: Tensor,
    allocate: Allocate,
    *,
    entropies: bool = False,
    check_on_host: bool = True,
) -> BlockResult:
    """Losses and gradient of the negative log-likelihood of `labels` [r] for [r, V] logits."""
    student = softmax_rows(student_logits, allocate)
    entropy = None
    if entropies:
        finite = torch.clamp_min(student.shifted, FLOOR, out=allocate(student_logits))
        entropy = SoftmaxRows(finite, student.probs, student.total).entropy(finite)
    column = labels.unsqueeze(-1)
    losses = (student.log_total - student.shifted.gather(-1, column)).squeeze(-1)
    gradient = student.probs
    gradient.scatter_add_(-1, column, torch.full_like(column, -1, dtype=gradient.dtype))
    if not (check_on_host and _all_finite(student_logits)):
        gradient.masked_fill_(torch.isneginf(student_logits), 0)
    return BlockResult(losses, gradient, entropy)


def _all_finite(logits: Tensor) -> bool:
    # One -inf makes the sum -inf (or NaN); a sum is the cheapest test.
    return math.isfinite(logits.sum().item())


def _entropies(
    teacher_logits: Tensor, student_logits: Tensor, allocate: Allocate
) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's, [r] each."""
    product = allocate(student_logits)
    absent = torch.isneginf(teacher_logits) | torch.isneginf(student_logits)
    return (
        softmax_rows(student_logits, allocate, absent).entropy(product),
        softmax_rows(teacher_logits, allocate, absent).entropy(product),
    )


def _by_autograd(
    divergence: Divergence, teacher_logits: Tensor, student_logits: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Losses and gradient of a divergence without its own: differentiated within the block."""
    with torch.enable_grad():
        leaf = student_logits.detach().requires_grad_()
        losses = _row_losses(divergence, teacher_logits, leaf)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient


def _value_alone(
    divergence: Divergence, teacher_logits: Tensor, student_logits: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Its losses, where no gradient is kept: inference mode would not even allow one."""
    with torch.no_grad():
        return _row_losses(divergence, teacher_logits, student_logits), None


def _row_losses(divergence: Divergence, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    losses = divergence(teacher_logits, student_logits)
    if losses.shape != student_logits.shape[:1]:
        raise ValueError(
            f"divergence {divergence.name!r} returned shape {tuple(losses.shape)} for logits "
            f"{tuple(student_logits.shape)}, expected one value per row: "
            f"{tuple(student_logits.shape[:1])}"
        )
    return losses
