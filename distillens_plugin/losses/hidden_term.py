"""What terms on hidden states have in common: one comparison for each layer pair.

Legend: N supervised positions, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import LayerSpec, Part, Term


class HiddenTerm(Term):
    """A mid-level loss that compares the hidden states of layer pairs, as a subclass defines.

    Args:
        layers, pair_weights: as for `Term`; a term of this kind has at least one pair.
    """

    default_name = "hidden"

    def __init__(self, layers: LayerSpec, *, pair_weights: Sequence[float] | None = None) -> None:
        super().__init__(layers, pair_weights=pair_weights)

    def compare(self, index: int, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """A 0-d value of one layer pair: the mean over its rows, at least one.

        Args:
            index: number of the pair, from 0.
            student_ND, teacher_ND: float32; the teacher's get no gradient.
        """
        raise NotImplementedError

    def parts(self, reading: Reading) -> list[Part]:
        parts = []
        with torch.autocast(reading.student.device.type, enabled=False):
            for index, (a, b, share) in enumerate(self.weighted_pairs(reading)):
                student, teacher = reading.states(a, b)
                if len(student) == 0:
                    value = student.sum()  # zero, with a graph
                else:
                    value = reading.share_of_window * self.compare(index, student, teacher)
                parts.append(Part(f"{self.default_name}/{a}-{b}", value, share))
        return parts
