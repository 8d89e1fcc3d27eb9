"""Divergence objects: each holds its parameters, its plain form, and its hand-written gradient.

What the fused walk asks of a divergence is small, so that users can bring their own:

- `name`: a string;
- `divergence(teacher_logits [N, V], student_logits [N, V]) -> [N]`, differentiable in the student's
  logits, each row by itself.

That is enough: the walk differentiates it block by block. The objects here also offer
`loss_and_gradient`, which the walk prefers: it gets both models' `SoftmaxRows`, may overwrite all
of their tensors, and returns the losses [r] and the gradient [r, V] towards the student's logits.

In the comments d = log(p/q), w = p/q - 1 and L = log(m/q) for the mixture m = share p + (1 - share)
q, as in L = log1p(share w): all three are exactly 0 where p = q.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from distillens_plugin.divergences import functions
from distillens_plugin.divergences.softmax import Allocate, SoftmaxRows, log_ratio_

# Under this share log(1 - share + share p/q) loses digits that log1p, three times slower, keeps.
_SMALL_SHARE = 0.05

LossAndGradient = tuple[Tensor, Tensor]


@runtime_checkable
class Divergence(Protocol):
    """What a divergence must offer; see this module's text."""

    @property
    def name(self) -> str: ...

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor: ...


@runtime_checkable
class FusedDivergence(Divergence, Protocol):
    """A divergence that brings its own gradient; hashable, as its compiled form is kept by it."""

    def __hash__(self) -> int: ...

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient: ...


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
        functions.check_coefficients(self.forward, self.reverse)

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
        functions.check_head_mass(self.head_mass)

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.adaptive_kl(teacher_logits, student_logits, head_mass=self.head_mass)

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        shares = functions.head_and_tail_shares(teacher.probs, student.probs, self.head_mass)
        return _both_ways(teacher, student, allocate, *shares)


@dataclass(frozen=True)
class JensenShannon:
    """Generalised Jensen-Shannon; `functions.jensen_shannon`. beta 0 is FKL and beta 1 is RKL."""

    beta: float = 0.5
    name: ClassVar[str] = "jsd"

    def __post_init__(self) -> None:
        functions.check_beta(self.beta)

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

    alpha: float = functions.DEFAULT_SKEW
    name: ClassVar[str] = "skew_fkl"

    def __post_init__(self) -> None:
        functions.check_skew(self.alpha)

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
        return loss.clamp_min_(0), _through_softmax_(pull, student, log_teacher)


@dataclass(frozen=True)
class SkewReverseKL:
    """KL(q||(1 - alpha) p + alpha q); `functions.skew_reverse_kl`."""

    alpha: float = functions.DEFAULT_SKEW
    name: ClassVar[str] = "skew_rkl"

    def __post_init__(self) -> None:
        functions.check_skew(self.alpha)

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
        return loss.clamp_min_(0), _through_softmax_(pull, student, scratch)


@dataclass(frozen=True)
class TotalVariation:
    """Half the sum of |p - q|; `functions.total_variation`."""

    name: ClassVar[str] = "tvd"

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.total_variation(teacher_logits, student_logits)

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        gap = torch.sub(student.probs, teacher.probs, out=teacher.probs)
        loss = torch.abs(gap, out=teacher.shifted).sum(-1) * 0.5
        return loss, _through_softmax_(gap.sign_().mul_(0.5), student, teacher.shifted)


@dataclass(frozen=True)
class AlphaBeta:
    """ABKD's alpha-beta divergence; `functions.alpha_beta`."""

    alpha: float = functions.DEFAULT_ALPHA_BETA[0]
    beta: float = functions.DEFAULT_ALPHA_BETA[1]
    name: ClassVar[str] = "alpha_beta"

    def __post_init__(self) -> None:
        functions.check_alpha_beta(self.alpha, self.beta)

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.alpha_beta(
            teacher_logits, student_logits, alpha=self.alpha, beta=self.beta
        )

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        # Small powers of a floored probability are not small, so this starts from the logarithms.
        log_p = teacher.shifted.sub_(teacher.log_total)
        log_q = student.shifted.sub_(student.log_total)
        cross, teacher_part = functions.alpha_beta_parts(log_p, log_q, self.alpha, self.beta)
        total = self.alpha + self.beta
        loss = (cross - self.alpha / total * teacher_part).sum(-1) / (-self.alpha * self.beta)
        # q dD/dq = (q^s - p^alpha q^beta) / alpha.
        pull = cross.mul_(-1 / self.alpha)
        gradient = pull.sub_(student.probs.mul_(pull.sum(-1, keepdim=True)))
        return loss.clamp_min_(0), gradient


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


def _through_softmax_(pull: Tensor, student: SoftmaxRows, scratch: Tensor) -> Tensor:
    """From dD/dq to dD/dz = q (g - sum q g), over `pull`; `scratch` [r, V] is overwritten."""
    mean = torch.mul(pull, student.probs, out=scratch).sum(-1, keepdim=True)
    return pull.sub_(mean).mul_(student.probs)
