"""Random rows and heads in bfloat16, the floor and our lens on them, and how a call is timed.

Legend: R rows, D width, V vocabulary.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clock import measure
from torch import Tensor

from distillens_plugin.fused import lens_divergence

# The floor's chunks: large products without logits of all rows.
FLOOR_ROWS = (4096, 16384)


class Problem:
    """Rows and heads whose logits have a standard deviation of 3.

    Attributes:
        rows: R; vocab: V; flops: of the four matrix products.
    """

    def __init__(
        self, device: torch.device, rows: int, vocab: int, student: int, teacher: int, *, seed: int
    ) -> None:
        generator = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int, std: float) -> Tensor:
            made = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
            return made * std

        self.hidden = normal(rows, student, std=3.0).requires_grad_()
        self.weight = normal(vocab, student, std=student**-0.5).requires_grad_()
        self.teacher_hidden = normal(rows, teacher, std=3.0)
        self.teacher_weight = normal(vocab, teacher, std=teacher**-0.5)
        self.rows, self.vocab = rows, vocab
        self.flops = 2.0 * rows * vocab * (3 * student + teacher)

    def aligned(self, multiple: int) -> "Problem":
        """The same rows with a vocabulary up to the next multiple; its new ids are zeros."""
        made = copy.copy(self)
        made.vocab = -(-self.vocab // multiple) * multiple
        made.flops = self.flops / self.vocab * made.vocab
        padding = (0, 0, 0, made.vocab - self.vocab)
        made.weight = F.pad(self.weight.detach(), padding)
        made.teacher_weight = F.pad(self.teacher_weight, padding)
        return made

    def clear(self) -> None:
        """Drops the gradients, as an optimiser's zero_grad does."""
        self.hidden.grad = self.weight.grad = None


def clear(made: Sequence[Problem]) -> None:
    """Drops all gradients, and leaves the inputs."""
    for problem in made:
        problem.clear()


def timed(
    made: Sequence[Problem], method: Callable[[Problem], object], **options: Any
) -> dict[str, Any]:
    """A method's time on these problems in turn, and its peak memory beyond the inputs."""
    calls = [partial(method, problem) for problem in made]
    device = made[0].hidden.device
    return measure(calls, device, reset=partial(clear, made), **options)


def fused(problem: Problem, *, chunk_rows: int | None = None) -> Tensor:
    """Forward and backward of the lens with the Jensen-Shannon divergence."""
    problem.clear()
    loss = lens_divergence(
        problem.hidden,
        problem.weight,
        problem.teacher_hidden,
        problem.teacher_weight,
        chunk_rows=chunk_rows,
    )
    loss.backward()
    return loss.detach()


def floor(problem: Problem, *, chunk_rows: int = FLOOR_ROWS[0]) -> None:
    """The four products alone, in bfloat16, a chunk of rows at a time in reused memory."""
    hidden, weight = problem.hidden.detach(), problem.weight.detach()
    rows = hidden.shape[0]
    size = min(rows, chunk_rows)
    student_logits = hidden.new_empty(size, weight.shape[0])
    teacher_logits = torch.empty_like(student_logits)
    rows_gradient, weight_gradient = torch.empty_like(hidden), torch.empty_like(weight)
    for start in range(0, rows, size):
        part = slice(start, min(start + size, rows))
        num = part.stop - part.start
        logits = student_logits[:num]
        torch.mm(problem.teacher_hidden[part], problem.teacher_weight.t(), out=teacher_logits[:num])
        torch.mm(hidden[part], weight.t(), out=logits)
        torch.mm(logits, weight, out=rows_gradient[part])
        if start == 0:
            torch.mm(logits.t(), hidden[part], out=weight_gradient)
        else:
            weight_gradient.addmm_(logits.t(), hidden[part])
