"""What a loss term reads from the models, and zeros that keep the rest in the graph."""

from dataclasses import dataclass

from torch import Tensor

from distillens_plugin.lens.output import LensOutput


@dataclass(frozen=True)
class Needs:
    """What a term reads from the models besides its layer pairs.

    Attributes:
        final_states: the student's final hidden states, so that all blocks get a gradient from it.
        unembedding: the student's unembedding, with a gradient.
        activations: logits, or anything else that a teacher cache does not keep.
    """

    final_states: bool = False
    unembedding: bool = False
    activations: bool = False


def zeros_through(student: LensOutput, reached: Needs) -> list[Tensor]:
    """Zeros whose graph reaches what a term does not read."""
    zeros = [] if reached.final_states else [student.last_hidden[:0].sum()]
    if not reached.unembedding:
        head = student.lens.head()
        zeros += [tensor[:0].sum() for tensor in (head.weight, head.bias) if tensor is not None]
    return zeros
