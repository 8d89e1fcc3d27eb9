"""What the fused walk needs from a divergence: little, so that users can write their own.

- `name`: a string;
- `divergence(teacher_logits [N, V], student_logits [N, V]) -> [N]`, differentiable in the student's
  logits, each row by itself.

That is enough: the walk differentiates it block by block. The divergences of this package also
offer `loss_and_gradient`, which the walk prefers: it gets both models' `SoftmaxRows`, may overwrite
all of their tensors, and returns the losses [r] and the gradient [r, V] towards the student's
logits.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from distillens_plugin.divergences.softmax import Allocate, SoftmaxRows

LossAndGradient = tuple[Tensor, Tensor]


@runtime_checkable
class Divergence(Protocol):
    """What a divergence must offer; see this module's docstring."""

    @property
    def name(self) -> str: ...

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor: ...


@runtime_checkable
class FusedDivergence(Divergence, Protocol):
    """A divergence with its own gradient; hashable, since it is the key of its compiled form."""

    def __hash__(self) -> int: ...

    def loss_and_gradient(
        self, teacher: SoftmaxRows, student: SoftmaxRows, allocate: Allocate
    ) -> LossAndGradient: ...
