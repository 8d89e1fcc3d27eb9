"""Random rows and heads for the fused walk, and the naive walk to hold it against."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from distillens_plugin.divergences import DIVERGENCES, Divergence, FarForwardKL, make_divergence
from distillens_plugin.fused import (
    CROSS_ENTROPY,
    Group,
    Head,
    WalkResult,
    walk,
    walk_naive,
)

BETAS = (0.0, 1e-6, 0.1, 0.5, 0.9, 1.0)
ALL = [make_divergence(name) for name in DIVERGENCES] + [
    make_divergence("jsd", beta=beta) for beta in BETAS
]


# Both have rows on either side of the switch, the first of 37 columns and the second of 997.
ALL += [FarForwardKL(threshold=0.25), FarForwardKL(threshold=0.58)]


class Problem:
    """Random rows and heads of a student and a teacher."""

    def __init__(
        self,
        rows: int = 11,
        *,
        vocab: tuple[int, int] = (37, 37),
        dtype: torch.dtype = torch.float64,
        spread: float = 1.0,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * spread

        self.hidden, self.weight = normal(rows, 5), normal(vocab[0], 5)
        self.teacher_hidden, self.teacher_weight = normal(rows, 7), normal(vocab[1], 7)
        self.bias, self.teacher_bias = normal(vocab[0]), normal(vocab[1])
        self.row_weights = torch.rand(rows, generator=generator).to(dtype)
        self.labels = torch.randint(vocab[0], (rows,), generator=generator)
        for leaf in (self.hidden, self.weight, self.bias):
            leaf.requires_grad_()

    def group(self, divergence: Divergence, **options: object) -> Group:
        made = Group(divergence.name, self.hidden, divergence, self.teacher_hidden)
        return replace(made, **options)  # type: ignore[arg-type]

    def cross_entropy(self, **options: object) -> Group:
        made = Group("ce", self.hidden, CROSS_ENTROPY, labels=self.labels)
        return replace(made, **options)  # type: ignore[arg-type]

    def heads(self, **student_options: float) -> tuple[Head, Head]:
        return (
            Head(self.weight, self.bias, **student_options),
            Head(self.teacher_weight, self.teacher_bias),
        )

    def gradients(self, result: WalkResult) -> tuple[Tensor, ...]:
        return torch.autograd.grad(result.loss, (self.hidden, self.weight, self.bias))


def assert_same(
    problem: Problem, groups: list[Group], student: Head, teacher: Head | None, **options: object
) -> None:
    """The fused walk gives the naive one's loss, values, entropies and gradients."""
    fused = walk(groups, student, teacher, **options)  # type: ignore[arg-type]
    naive = walk_naive(groups, student, teacher, entropies=bool(options.get("entropies")))
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
    close(fused.loss, naive.loss)
    assert fused.values.keys() == naive.values.keys() != set()
    for name, value in naive.values.items():
        close(fused.values[name], value)
        close(fused.row_losses[name], naive.row_losses[name].detach())
    assert fused.entropies.keys() == naive.entropies.keys()
    for name, pair in naive.entropies.items():
        close(fused.entropies[name], pair)
    found, expected = problem.gradients(fused), problem.gradients(naive)
    for gradient, other in zip(found, expected, strict=True):
        close(gradient, other)
