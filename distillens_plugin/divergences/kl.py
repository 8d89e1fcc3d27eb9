"""Forward and reverse KL, alone and together, with hand-written gradients (see `protocol`).

In the comments d = log(p/q), exactly 0 where p = q.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillens_plugin.divergences import functions
from distillens_plugin.divergences.parameters import HEAD_MASS, check_coefficients
from distillens_plugin.divergences.protocol import LossAndGradient
from distillens_plugin.divergences.softmax import Allocate, SoftmaxRows, log_ratio_


@dataclass(frozen=True)
class ForwardKL:
    """KL(p||q); `functions.forward_kl`."""

    name: ClassVar[str] = "fkl"

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.forward_kl(teacher_logits, student_logits)

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        log_ratio = log_ratio_(teacher, student)
        gradient = student.probs.sub_(teacher.probs)
        # p d + q - p is never negative by column, and a rounded total no longer shows in the sum.
        loss = teacher.probs.mul_(log_ratio).sum(-1) + gradient.sum(-1)
        return loss.clamp_min_(0), gradient


@dataclass(frozen=True)
class ReverseKL:
    """KL(q||p); `functions.reverse_kl`."""

    name: ClassVar[str] = "rkl"

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.reverse_kl(teacher_logits, student_logits)

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        log_ratio = log_ratio_(teacher, student)
        surplus = teacher.probs.sub_(student.probs).sum(-1)
        mean_ratio = torch.mul(student.probs, log_ratio, out=teacher.probs).sum(-1, keepdim=True)
        gradient = log_ratio.sub_(mean_ratio).mul_(student.probs).neg_()
        return (surplus - mean_ratio.squeeze(-1)).clamp_min_(0), gradient


@dataclass(frozen=True)
class Jeffreys:
    """forward KL(p||q) + reverse KL(q||p); `functions.jeffreys`."""

    forward: float = 1.0
    reverse: float = 1.0
    name: ClassVar[str] = "jeffreys"

    def __post_init__(self) -> None:
        check_coefficients((self.forward, self.reverse))

    @classmethod
    def of(cls, coefficients: tuple[float, float]) -> "Jeffreys":
        """From the recipe's `coefficients: [forward, reverse]`."""
        return cls(*coefficients)

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.jeffreys(
            teacher_logits, student_logits, forward=self.forward, reverse=self.reverse
        )

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        return _both_ways(teacher, student, allocate, self.forward, self.reverse)


@dataclass(frozen=True)
class AdaptiveKL:
    """FKL and RKL by where the student is further off; `functions.adaptive_kl`. Sorts the
    vocabulary."""

    head_mass: float = 0.5
    name: ClassVar[str] = "akl"

    def __post_init__(self) -> None:
        HEAD_MASS.check("head_mass", self.head_mass)

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.adaptive_kl(teacher_logits, student_logits, head_mass=self.head_mass)

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        shares = functions.head_and_tail_shares(teacher.probs, student.probs, self.head_mass)
        return _both_ways(teacher, student, allocate, *shares)


def _both_ways(
    teacher: SoftmaxRows,
    student: SoftmaxRows,
    allocate: Allocate,
    forward: float | Tensor,
    reverse: float | Tensor,
) -> LossAndGradient:
    """forward FKL + reverse RKL; the coefficients are numbers or [r, 1]."""
    log_ratio = log_ratio_(teacher, student)
    gap = torch.sub(student.probs, teacher.probs, out=allocate(log_ratio))
    surplus = gap.sum(-1, keepdim=True)
    forward_loss = teacher.probs.mul_(log_ratio).sum(-1, keepdim=True) + surplus
    mean_ratio = torch.mul(student.probs, log_ratio, out=teacher.probs).sum(-1, keepdim=True)
    loss = forward * forward_loss - reverse * (mean_ratio + surplus)
    gradient = log_ratio.sub_(mean_ratio).mul_(student.probs).mul_(reverse)
    return loss.squeeze(-1).clamp_min_(0), torch.sub(gap.mul_(forward), gradient, out=gap)
