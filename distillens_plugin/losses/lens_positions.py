"""Which supervised positions a lens compares in a step, and how much each of them counts.

Legend: N supervised positions, K of them that are compared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distillens_plugin.data.supervision import Supervised
from distillens_plugin.losses.reading import Reading
from eval_harness.errors import DistillensError

TEACHER_ENTROPY = "teacher_entropy"


@dataclass(frozen=True)
class Compared:
    """The positions of one step.

    Attributes:
        index: [K] int64, ascending, into the N; None is all of them.
        weights: [N] float32, what each counts; None is 1.
        factor: of the sum over the K, so that it estimates the sum over all without bias.
    """

    index: Tensor | None = None
    weights: Tensor | None = None
    factor: float = 1.0

    def of(self, rows: Tensor) -> Tensor:
        """[N, ...] -> [K, ...]; the same object where all are compared."""
        return rows if self.index is None else rows.index_select(0, self.index.to(rows.device))

    def row_weights(self) -> Tensor | None:
        """[K], or None for ones."""
        return None if self.weights is None else self.of(self.weights)

    def denominator(self, supervised: Supervised) -> float | Tensor | None:
        """What the sum over the K rows is divided by, for the mean over all supervised positions.

        None is K.
        """
        if self.index is None and self.weights is None:
            return supervised.count
        count = supervised.positions.numel() if supervised.count is None else supervised.count
        return count / self.factor


@dataclass(frozen=True)
class LensPositions:
    """A term's choice of positions.

    Args:
        share: in (0, 1], the part of them that a training step compares, drawn at random. The value
            is then an estimate without bias of that over all; without gradients all are compared.
        min_teacher_entropy: only positions where the teacher's final distribution has at least this
            entropy, in nats; the others count 0. None: all.
        weigh_by: `teacher_entropy` multiplies each position by that entropy; None: all count 1.
    Raises:
        DistillensError: out of range.
    """

    share: float = 1.0
    min_teacher_entropy: float | None = None
    weigh_by: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise DistillensError(
                f"DistillLensLoss: positions = {self.share!r}, expected a share above 0 and up to 1"
            )
        least = self.min_teacher_entropy
        if least is not None and not 0 <= least < float("inf"):
            raise DistillensError(
                f"DistillLensLoss: min_teacher_entropy = {least!r}, expected nats, at least 0"
            )
        if self.weigh_by not in (None, TEACHER_ENTROPY):
            raise DistillensError(
                f"DistillLensLoss: weigh_by = {self.weigh_by!r}, expected {TEACHER_ENTROPY} or None"
            )

    @property
    def reads_entropy(self) -> bool:
        """Whether positions count by the teacher's entropy."""
        return self.min_teacher_entropy is not None or self.weigh_by is not None

    def compared(self, reading: Reading) -> Compared:
        """Draws the positions of a step, from torch's global generator of the CPU."""
        count = reading.supervised.positions.numel()
        index, weights, factor = None, None, 1.0
        if self.min_teacher_entropy is not None:
            index = (reading.teacher_entropy >= self.min_teacher_entropy).nonzero().squeeze(1)
            count = index.numel()
        if self.share < 1 and count > 0 and torch.is_grad_enabled():
            drawn = max(1, round(self.share * count))
            # Ascending, since neighbouring rows are read from neighbouring places.
            chosen = torch.randperm(count)[:drawn].sort().values
            index = chosen if index is None else index[chosen.to(index.device)]
            factor = count / drawn
        if self.weigh_by == TEACHER_ENTROPY:
            weights = reading.teacher_entropy
        return Compared(index, weights, factor)
