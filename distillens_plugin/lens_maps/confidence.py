"""Where a student is surer of the next token than its teacher, and where it is less sure.

Legend: N supervised positions, P layer pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillens_plugin.lens_maps.statistics import ModelReading
from eval_harness.errors import DistillensError

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


def compare_confidence(
    student: ModelReading, teacher: ModelReading, pairs: Sequence[tuple[int, int]]
) -> Confidence:
    """Compares two models that were read on the same batches.

    Args:
        pairs: (student layer, teacher layer).
    Raises:
        DistillensError: no such layers.
    """
    num_student, num_teacher = len(student.entropies), len(teacher.entropies)
    for a, b in pairs:
        if not (0 <= a < num_student and 0 <= b < num_teacher):
            raise DistillensError(
                f"pair ({a}, {b}): student and teacher have layers 0 to {num_student - 1} and 0 to "
                f"{num_teacher - 1}"
            )
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    more = (student.entropies[ours] - teacher.entropies[theirs]).double().numpy()
    surer, less_sure = more < -MARGIN, more > MARGIN
    return Confidence(
        pairs=[(a, b) for a, b in pairs],
        surer_share=surer.mean(axis=1),
        surer_by=-_mean_where(more, surer),
        less_sure_share=less_sure.mean(axis=1),
        less_sure_by=_mean_where(more, less_sure),
        num_positions=more.shape[1],
    )


def _mean_where(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[P] means over the chosen positions of each row; 0 where there are none."""
    chosen: NDArray[np.float64] = (values * where).sum(axis=1) / np.maximum(1, where.sum(axis=1))
    return chosen
