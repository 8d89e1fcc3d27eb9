"""Loss terms on the geometry of hidden states: which positions are similar, whatever the width.

Neither needs a projection: a Gram matrix over positions has the same shape for both models.

Legend: N supervised positions, D width.
"""

import torch
from torch import Tensor

from distillens_plugin.losses.hidden_term import HiddenTerm


class GramAlignment(HiddenTerm):
    """`distillens.gram`: mean squared difference of the cosines between all pairs of positions.

    Rows are scaled to length 1, G = X X^T for each model, and the value is the mean of
    (G_s - G_t)^2 over all N x N entries of the batch; in [0, 4].

    Source: Tung and Mori 2019, arXiv 1907.09682, eq. 4. There the Gram matrix compares images and
    its *rows* are scaled to length 1. Here the states are, so that entries are cosines, and neither
    states of large norm nor the number of positions set the scale.
    """

    default_name = "gram"
    where = "distillens.gram"

    def compare(self, index: int, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        left = torch.nn.functional.normalize(student_ND, dim=-1)
        right = torch.nn.functional.normalize(teacher_ND, dim=-1)
        summed = inner(left, left) + inner(right, right) - 2 * inner(left, right)
        return summed.clamp_min(0) / left.shape[0] ** 2


class CKA(HiddenTerm):
    """`distillens.cka`: 1 - linear centred kernel alignment, in [0, 1].

    CKA = ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) with columns centred over the batch's positions; it is
    invariant to rotations and to the scale of either model. With fewer positions than widths it is
    biased towards 1: use batches of several hundred supervised tokens.

    Source: Kornblith et al. 2019, arXiv 1905.00414, eq. 4.
    """

    default_name = "cka"
    where = "distillens.cka"

    def compare(self, index: int, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        left = student_ND - student_ND.mean(0)
        right = teacher_ND - teacher_ND.mean(0)
        # The scale drops out of the ratio; without it squares of large states would overflow.
        left, right = left / _norm(left), right / _norm(right)
        squares = inner(left, left) * inner(right, right)
        # A single position, or identical ones, have no geometry: 0, as if the models agreed. The
        # clamp comes before the root, whose slope at 0 is infinite.
        agree = (squares == 0).to(squares.dtype)
        norms = squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
        return 1 - agree - inner(left, right) / norms


def inner(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    """sum over i, j of (X X^T)_ij (Y Y^T)_ij, through whichever matrix is smaller.

    It equals ||X^T Y||^2, so no N x N matrix is needed where N is larger than the widths.
    """
    num_rows, width = left_ND.shape
    if num_rows * num_rows < width * right_ND.shape[1]:
        return ((left_ND @ left_ND.T) * (right_ND @ right_ND.T)).sum()
    return (left_ND.T @ right_ND).square().sum()


def _norm(rows_ND: Tensor) -> Tensor:
    return rows_ND.detach().square().sum().sqrt().clamp_min(torch.finfo(rows_ND.dtype).tiny)
