"""Softmax of a block of rows in the form that the divergences' hand-written gradients start from.

Legend: r rows of a block, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# exp(-50) = 2e-22 stands for every smaller ratio to the likeliest token: far below a float's last
# digit of any sum, and far above the denormal numbers that slow matrix products down ninefold.
FLOOR = -50.0

# Gives an uninitialised tensor of the same shape; a block's scratch memory, or torch.empty_like.
Allocate = Callable[[Tensor], Tensor]


@dataclass
class SoftmaxRows:
    """One model's block of rows.

    Attributes:
        shifted: [r, V] logits less their maximum.
        probs: [r, V] softmax, with exp(FLOOR) of the largest as its least value.
        total: [r, 1] sum of exp(shifted), so that log prob = shifted - log(total).
        absent: [r, V] bool, columns that were taken out, or None where all count.
    """

    shifted: Tensor
    probs: Tensor
    total: Tensor
    absent: Tensor | None = None

    @property
    def log_total(self) -> Tensor:
        """[r, 1] log of `total`."""
        return self.total.log()

    def entropy(self, scratch: Tensor) -> Tensor:
        """[r] entropy in nats; `scratch` [r, V] is overwritten."""
        product = torch.mul(self.probs, self.shifted, out=scratch)
        return self.total.log().squeeze(-1) - product.sum(-1)


def softmax_rows(logits: Tensor, allocate: Allocate, absent: Tensor | None = None) -> SoftmaxRows:
    """Softmax of [r, V] logits, which are left as they are.

    Args:
        absent: [r, V] bool, columns to take out; their log-ratio between two models comes out as
            finite, and their probability as nearly 0 (the caller clears their gradient).
    """
    if absent is not None:
        logits = logits.masked_fill(absent, -torch.inf)
    # A row without any column left has the maximum -inf, and -inf - -inf would be NaN.
    largest = logits.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    shifted = torch.sub(logits, largest, out=allocate(logits))
    if absent is not None:
        shifted.masked_fill_(absent, FLOOR)
    probs = torch.clamp_min(shifted, FLOOR, out=allocate(logits)).exp_()
    total = probs.sum(-1, keepdim=True)
    probs.mul_(total.reciprocal())
    return SoftmaxRows(shifted, probs, total, absent)


def log_ratio_(teacher: SoftmaxRows, student: SoftmaxRows) -> Tensor:
    """log(p/q) [r, V], written over `teacher.shifted`; exactly 0 where both models agree."""
    # One logarithm of the ratio of totals: the difference of two would lose digits that the loss
    # needs.
    offset = (teacher.total / student.total).log()
    return teacher.shifted.sub_(student.shifted).sub_(offset)


def through_softmax_(pull: Tensor, student: SoftmaxRows, scratch: Tensor) -> Tensor:
    """From dD/dq to dD/dz = q (g - sum q g), over `pull`; `scratch` [r, V] is overwritten."""
    mean = torch.mul(pull, student.probs, out=scratch).sum(-1, keepdim=True)
    return pull.sub_(mean).mul_(student.probs)
