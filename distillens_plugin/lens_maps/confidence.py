"""Where a student is surer of the next token than its teacher, and where it is less sure.

Legend: N supervised positions, P layer pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Entropies closer than this, in nats, are taken to be equal.
MARGIN = 0.01


@dataclass(frozen=True)
class Confidence:
    """Entropies of student and teacher, compared at each position of each pair; arrays of [P].

    Attributes:
        pairs: (student layer, teacher layer).
        surer_share: of the positions, those where the student's entropy is lower by more than
            0.01 nats; `less_sure_share`: higher.
        surer_by, less_sure_by: the mean difference over those positions, nats; 0 if there are none.
    """

    pairs: list[tuple[int, int]]
    surer_share: NDArray[np.float64]
    surer_by: NDArray[np.float64]
    less_sure_share: NDArray[np.float64]
    less_sure_by: NDArray[np.float64]
    num_positions: int


class ConfidenceSums:
    """Adds batches up to `Confidence`."""

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._pairs = [(a, b) for a, b in pairs]
        # positions and nats where surer, positions and nats where less sure, by pair.
        self._sums = torch.zeros(4, len(self._pairs), dtype=torch.float64)
        self._count = 0

    def add(self, student_entropy: Tensor, teacher_entropy: Tensor) -> None:
        """Takes in [layers, N] entropies of both models at the same positions."""
        teacher_entropy = teacher_entropy.to(student_entropy.device)
        for index, (a, b) in enumerate(self._pairs):
            more = (student_entropy[a] - teacher_entropy[b]).double()
            surer, less = more < -MARGIN, more > MARGIN
            found = [surer.sum(), -more[surer].sum(), less.sum(), more[less].sum()]
            self._sums[:, index] += torch.stack([each.double() for each in found]).cpu()
        self._count += student_entropy.shape[1]

    def means(self) -> Confidence:
        surer, surer_nats, less, less_nats = self._sums.numpy()
        return Confidence(
            pairs=self._pairs,
            surer_share=surer / max(1, self._count),
            surer_by=surer_nats / np.maximum(1, surer),
            less_sure_share=less / max(1, self._count),
            less_sure_by=less_nats / np.maximum(1, less),
            num_positions=self._count,
        )
