"""Whether all methods compute the same, and how exactly: losses, and gradients against float64."""

import torch
from fast_others import COMPILED, OTHERS
from fast_problem import Problem, fused
from records import Fields, Record
from torch import Tensor

from distillens_plugin.fused import lens_divergence


def agreement(record: Record, problem: Problem) -> None:
    """A comparison of times means something only where all compute the same loss.

    The errors of gradients are relative to float64's largest entry: the methods round logits in
    different places (TRL's are float32), which costs time.
    """

    def check() -> Fields:
        loss, *truth = exact(problem)
        losses, errors = {"float64": loss}, {}
        methods = {"ours": fused, **OTHERS}
        del methods[COMPILED]
        for name, method in methods.items():
            try:
                losses[name] = float(method(problem))
                errors[name] = largest_error([problem.hidden.grad, problem.weight.grad], truth)
            except Exception as error:  # its own case says why
                losses[name] = float("nan")
                print(name, error)
        spread = max(abs(v / losses["ours"] - 1) for v in losses.values() if v == v)
        return {
            "ok": spread < 0.02,
            "spread": spread,
            **{f"gradient_error {name}": error for name, error in errors.items()},
            "values": losses,
        }

    record.run("the methods' losses agree", check)
    problem.clear()


def exact(problem: Problem) -> tuple[float, Tensor, Tensor]:
    """The loss in float64, and the gradients of rows and weight."""
    tensors = (problem.hidden, problem.weight, problem.teacher_hidden, problem.teacher_weight)
    hidden, weight, *teacher = (tensor.detach().double() for tensor in tensors)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    loss = lens_divergence.naive(*leaves, *teacher)
    rows_gradient, weight_gradient = torch.autograd.grad(loss, leaves)
    return loss.item(), rows_gradient, weight_gradient


def largest_error(found: list[Tensor | None], truth: list[Tensor]) -> float:
    """Relative to the largest entry of each."""
    gaps = []
    for mine, other in zip(found, truth, strict=True):
        assert mine is not None
        gaps.append(((mine.double() - other).abs().max() / other.abs().max()).item())
    return max(gaps)
