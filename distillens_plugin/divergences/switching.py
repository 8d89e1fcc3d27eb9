"""A divergence that changes its formula with the distance, with a hand-written gradient."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from distillens_plugin.divergences import functions
from distillens_plugin.divergences.mixtures import JensenShannon
from distillens_plugin.divergences.parameters import INNER_BETA, SWITCH
from distillens_plugin.divergences.protocol import LossAndGradient
from distillens_plugin.divergences.softmax import Allocate, SoftmaxRows


@dataclass(frozen=True)
class FarForwardKL:
    """Forward KL at rows that are far apart, Jensen-Shannon at the others; `functions.fkl_jsd`."""

    beta: float = 0.5
    threshold: float = 0.1
    name: ClassVar[str] = "fkl_jsd"
    # Made once: its check of beta cannot be traced by a compiler.
    _near: JensenShannon = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        INNER_BETA.check("beta", self.beta)
        SWITCH.check("threshold", self.threshold)
        object.__setattr__(self, "_near", JensenShannon(self.beta))

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return functions.fkl_jsd(
            teacher_logits, student_logits, beta=self.beta, threshold=self.threshold
        )

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient:
        scale = self.beta * (1 - self.beta)
        far_gradient = torch.sub(student.probs, teacher.probs, out=allocate(student.probs))
        log_ratio = torch.sub(teacher.shifted, student.shifted, out=allocate(student.probs))
        log_ratio.sub_((teacher.total / student.total).log())
        far = log_ratio.mul_(teacher.probs).sum(-1) + far_gradient.sum(-1)
        near, near_gradient = self._near.loss_and_gradient(teacher, student, allocate)
        is_far = near >= self.threshold
        far_gradient.mul_(scale)
        gradient = torch.where(is_far.unsqueeze(-1), far_gradient, near_gradient, out=log_ratio)
        return torch.where(is_far, far.mul_(scale).clamp_min_(0), near), gradient
