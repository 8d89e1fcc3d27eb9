"""Total variation and the alpha-beta divergence, with hand-written gradients (see `protocol`)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillens_plugin.divergences import functions
from distillens_plugin.divergences.parameters import check_alpha_beta
from distillens_plugin.divergences.protocol import LossAndGradient
from distillens_plugin.divergences.softmax import Allocate, SoftmaxRows, through_softmax_


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
        return loss, through_softmax_(gap.sign_().mul_(0.5), student, teacher.shifted)


@dataclass(frozen=True)
class AlphaBeta:
    """ABKD's alpha-beta divergence; `functions.alpha_beta`."""

    alpha: float = 0.2
    beta: float = 0.7
    name: ClassVar[str] = "alpha_beta"

    def __post_init__(self) -> None:
        check_alpha_beta(self.alpha, self.beta)

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
        if student.absent is not None:  # equal logarithms add nothing, as in `functions.alpha_beta`
            log_p.masked_fill_(student.absent, 0)
            log_q.masked_fill_(student.absent, 0)
        cross, teacher_part = functions.alpha_beta_parts(log_p, log_q, self.alpha, self.beta)
        total = self.alpha + self.beta
        loss = (cross - self.alpha / total * teacher_part).sum(-1) / (-self.alpha * self.beta)
        # q dD/dq = (q^s - p^alpha q^beta) / alpha.
        pull = cross.mul_(-1 / self.alpha)
        gradient = pull.sub_(student.probs.mul_(pull.sum(-1, keepdim=True)))
        return loss.clamp_min_(0), gradient
