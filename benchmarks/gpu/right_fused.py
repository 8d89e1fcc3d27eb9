"""The fused walk on a device against the naive one in float64 on the CPU.

Legend: R rows, D width, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distillens_plugin.divergences import DIVERGENCES, Divergence, make_divergence
from distillens_plugin.fused import CROSS_ENTROPY, Group, Head, walk, walk_naive

STUDENT_WIDTH, TEACHER_WIDTH = 64, 96
# Relative to the largest entry of float64's gradient; half precision rounds the products.
BOUNDS = {torch.float32: 2e-4, torch.float16: 6e-3, torch.bfloat16: 3e-2}
# TVD's gradient jumps where the models' probabilities are equal, so rounded logits flip some signs.
JUMPS = {"tvd": 5.0}

Case = tuple[str, Callable[[], dict[str, Any]]]


class Problem:
    """Random rows and heads in a dtype on a device."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        rows: int = 70,
        vocab: tuple[int, int] = (509, 509),
        bias: bool = False,
        padded: int = 0,
        **head: float,
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, std: float = 1.0) -> Tensor:
            # Rounded to the coarsest type first, so that every dtype starts from equal numbers.
            made = torch.randn(shape, generator=generator) * std
            return made.bfloat16().to(device, dtype)

        self.hidden = normal(rows, STUDENT_WIDTH).requires_grad_()
        self.weight = normal(vocab[0], STUDENT_WIDTH, std=0.3).requires_grad_()
        self.teacher_hidden = normal(rows, TEACHER_WIDTH)
        self.teacher_weight = normal(vocab[1], TEACHER_WIDTH, std=0.25)
        self.bias = self.teacher_bias = None
        if bias or padded:
            self.bias, self.teacher_bias = normal(vocab[0]), normal(vocab[1])
            if padded:
                self.bias[-padded:] = -math.inf
            self.bias.requires_grad_()
        self.head = head

    def group(self, divergence: Divergence, **more: Any) -> Group:
        return replace(Group(divergence.name, self.hidden, divergence, self.teacher_hidden), **more)

    def heads(self) -> tuple[Head, Head]:
        return (
            Head(self.weight, self.bias, **self.head),  # type: ignore[arg-type]
            Head(self.teacher_weight, self.teacher_bias),
        )

    def leaves(self, *, with_weight: bool = True) -> list[Tensor]:
        found = [self.hidden]
        if with_weight:
            found += [self.weight, *([] if self.bias is None else [self.bias])]
        return found


def wide(tensor: Tensor | None) -> Tensor | None:
    """The same numbers in float64 on the CPU, as a leaf."""
    if tensor is None:
        return None
    made = tensor.detach().cpu()
    return made if made.dtype == torch.int64 else made.double().requires_grad_(tensor.requires_grad)


def difference(
    problem: Problem, groups: list[Group], *, with_weight: bool = True, **options: Any
) -> dict[str, float]:
    """How far loss and gradients are from float64's.

    `loss` is relative; gradients are relative to the largest entry.
    """
    found = walk(groups, *problem.heads(), **options)
    leaves = problem.leaves(with_weight=with_weight)
    gradients = torch.autograd.grad(found.loss, leaves)
    hidden, weight, bias = (wide(t) for t in (problem.hidden, problem.weight, problem.bias))
    assert hidden is not None
    assert weight is not None
    exact_groups = [
        replace(
            group,
            student_rows=hidden,
            teacher_rows=wide(group.teacher_rows),
            labels=wide(group.labels),
            row_weights=wide(group.row_weights),
        )
        for group in groups
    ]
    teacher_weight = wide(problem.teacher_weight)
    assert teacher_weight is not None
    exact = walk_naive(
        exact_groups,
        Head(weight, bias, **problem.head),  # type: ignore[arg-type]
        Head(teacher_weight, wide(problem.teacher_bias)),
    )
    exact_leaves = [
        t for t in ([hidden, weight, bias] if with_weight else [hidden]) if t is not None
    ]
    truth = torch.autograd.grad(exact.loss, exact_leaves)
    errors = {"loss": abs(found.loss.item() - exact.loss.item()) / max(1e-3, exact.loss.item())}
    names = ("rows", "weight", "bias")
    for name, mine, other in zip(names, gradients, truth, strict=False):
        gap = (mine.detach().cpu().double() - other).abs().max() / other.abs().max()
        errors[name] = gap.item()
    return errors


def verdict(errors: dict[str, float], dtype: torch.dtype, name: str = "") -> dict[str, Any]:
    """Whether all are within the bound of this dtype and divergence; NaN never is."""
    bound = BOUNDS[dtype] * (JUMPS.get(name, 1.0) if dtype != torch.float32 else 1.0)
    ok = all(value < bound for value in errors.values())
    found: dict[str, Any] = {"ok": ok, "worst": max(errors.values()), "values": errors}
    if not ok:
        name, value = next(item for item in errors.items() if not item[1] < bound)
        found["error"] = f"{name} is off by {value:.2g}, expected below {bound}"
    return found


def fused_cases(device: torch.device) -> Iterator[Case]:
    """Every divergence in every dtype, and every option of a head; the passes uncompiled."""
    for dtype in BOUNDS:
        for name in DIVERGENCES:
            yield f"fused {str(dtype)[6:]} {name}", checked(device, dtype, make_divergence(name))
        for what, options in OPTIONS.items():
            yield (
                f"fused {str(dtype)[6:]} {what}",
                checked(device, dtype, make_divergence("jsd"), **options),
            )


# What a case changes in its problem and its group.
OPTIONS: dict[str, dict[str, Any]] = {
    "softcap": {"softcap": 4.0},
    "scale": {"scale": 0.3},
    "bias": {"bias": True},
    "padded vocabulary": {"padded": 6},
    "larger student vocabulary": {"vocab": (512, 509)},
    "larger teacher vocabulary": {"vocab": (509, 512)},
    "detached head": {"detach": True},
    "beside cross-entropy": {"labels": True},
    "temperature 2": {"temperature": 2.0},
    "entropies": {"entropies": True},
}


def checked(
    device: torch.device,
    dtype: torch.dtype,
    divergence: Divergence,
    *,
    detach: bool = False,
    labels: bool = False,
    temperature: float = 1.0,
    entropies: bool = False,
    **problem_options: Any,
) -> Callable[[], dict[str, Any]]:
    """A case: a walk in small chunks, so that chunks meet."""

    def check() -> dict[str, Any]:
        problem = Problem(device, dtype, **problem_options)
        weights = torch.rand(70, generator=torch.Generator().manual_seed(1)).to(device)
        groups = [
            problem.group(
                divergence,
                row_weights=weights,
                temperature=temperature,
                detach_unembedding=detach,
            )
        ]
        if labels:
            ids = torch.arange(70, device=device) * 7
            groups.append(Group("ce", problem.hidden, CROSS_ENTROPY, labels=ids, weight=0.4))
        options = {"chunk_rows": 32, "compile_blocks": False, "entropies": entropies}
        errors = difference(problem, groups, with_weight=not detach, **options)
        return verdict(errors, dtype, divergence.name)

    return check
