"""Divergences from a mixture of both distributions, with hand-written gradients (see `protocol`).

In the comments w = p/q - 1 and L = log(m/q) for the mixture m = share p + (1 - share) q, as in L =
log1p(share w): both are exactly 0 where p = q.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillens_plugin.divergences import functions
from distillens_plugin.divergences.kl import ForwardKL, ReverseKL
from distillens_plugin.divergences.parameters import FORWARD_SKEW, JSD_BETA, REVERSE_SKEW
from distillens_plugin.divergences.protocol import LossAndGradient
from distillens_plugin.divergences.softmax import Allocate, SoftmaxRows, through_softmax_

# Under this share log(1 - share + share p/q) loses digits that log1p, three times slower, keeps.
_SMALL_SHARE = 0.05


@dataclass(frozen=True)
class JensenShannon:
    """Generalised Jensen-Shannon; `functions.jensen_shannon`. beta 0 is FKL and beta 1 is RKL."""

    beta: float = 0.5
    name: ClassVar[str] = "jsd"

    def __post_init__(self) -> None:
        JSD_BETA.check("beta", self.beta)

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.jensen_shannon(teacher_logits, student_logits, beta=self.beta)

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        if self.beta == 0:
            return ForwardKL().loss_and_gradient(teacher, student, allocate)
        if self.beta == 1:
            return ReverseKL().loss_and_gradient(teacher, student, allocate)
        log_teacher, log_mixture = _mixture_logs(teacher, student, self.beta)
        # KL(p||m) = sum p log p/m, KL(q||m) = -sum q log m/q.
        teacher_part = log_teacher.mul_(teacher.probs).sum(-1)
        mean_log = torch.mul(student.probs, log_mixture, out=teacher.probs).sum(-1, keepdim=True)
        share = 1 - self.beta
        torch.sub(mean_log * share, log_mixture, alpha=share, out=log_mixture)
        gradient = log_mixture.mul_(student.probs)
        loss = self.beta * teacher_part - share * mean_log.squeeze(-1)
        return loss.clamp_min_(0), gradient


@dataclass(frozen=True)
class SkewForwardKL:
    """KL(p||alpha p + (1 - alpha) q); `functions.skew_forward_kl`."""

    alpha: float = 0.1
    name: ClassVar[str] = "skew_fkl"

    def __post_init__(self) -> None:
        FORWARD_SKEW.check("alpha", self.alpha)

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.skew_forward_kl(teacher_logits, student_logits, alpha=self.alpha)

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        if self.alpha == 0:
            return ForwardKL().loss_and_gradient(teacher, student, allocate)
        log_teacher, log_mixture = _mixture_logs(teacher, student, self.alpha)
        gap = torch.sub(teacher.probs, student.probs, out=allocate(log_teacher))
        # KL's own first-order terms sum to sum(m) - sum(p), which rounding leaves slightly off 0.
        surplus = gap.sum(-1)
        loss = log_teacher.mul_(teacher.probs).sum(-1) - (1 - self.alpha) * surplus
        ratio = gap.div_(student.probs)
        # d/dq = -(1 - a) p/m, and p/m = 1 + (1 - a) w / (1 + a w): the constant drops out.
        pull = ratio.div_(torch.mul(ratio, self.alpha, out=log_mixture).add_(1))
        pull.mul_(-((1 - self.alpha) ** 2))
        return loss.clamp_min_(0), through_softmax_(pull, student, log_teacher)


@dataclass(frozen=True)
class SkewReverseKL:
    """KL(q||(1 - alpha) p + alpha q); `functions.skew_reverse_kl`."""

    alpha: float = 0.1
    name: ClassVar[str] = "skew_rkl"

    def __post_init__(self) -> None:
        REVERSE_SKEW.check("alpha", self.alpha)

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.skew_reverse_kl(teacher_logits, student_logits, alpha=self.alpha)

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        if self.alpha == 0:
            return ReverseKL().loss_and_gradient(teacher, student, allocate)
        share = 1 - self.alpha
        scratch, log_mixture = _mixture_logs(teacher, student, share)
        surplus = teacher.probs.sub_(student.probs)
        loss = share * surplus.sum(-1)
        loss -= torch.mul(student.probs, log_mixture, out=scratch).sum(-1)
        # d/dq = log q/m - a q/m + 1, and q/m = 1 - b w / (1 + b w) with b = 1 - a.
        ratio = surplus.div_(student.probs).mul_(share)
        pull = ratio.div_(torch.add(ratio, 1, out=scratch)).mul_(self.alpha).sub_(log_mixture)
        return loss.clamp_min_(0), through_softmax_(pull, student, scratch)


def _mixture_logs(
    teacher: SoftmaxRows, student: SoftmaxRows, share: float
) -> tuple[Tensor, Tensor]:
    """log(p/m) and L = log(m/q), [r, V] each, written over both `shifted`; for share in (0, 1).

    Both come from the same rounded ratio p/q, bounded by the probabilities' floor. An error in that
    ratio then cancels in the loss to first order. log(p/m) as a difference of logarithms would lose
    digits where p/q is large.
    """
    if share < _SMALL_SHARE:
        mixture = torch.sub(teacher.probs, student.probs, out=student.shifted)
        log_mixture = mixture.div_(student.probs).mul_(share).log1p_()
        ratio = torch.div(teacher.probs, student.probs, out=teacher.shifted)
        return ratio.log_().sub_(log_mixture), log_mixture
    ratio = torch.div(teacher.probs, student.probs, out=teacher.shifted)
    # The rest is taken from the share as rounded, so that the two add up to exactly 1.
    rest = 1 - torch.tensor(share, dtype=ratio.dtype, device=ratio.device)
    mixture = torch.add(rest, ratio, alpha=share, out=student.shifted)
    return ratio.div_(mixture).log_(), mixture.log_()
