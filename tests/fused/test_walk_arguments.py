"""What the fused walk takes and refuses: divergences of one's own, groups that do not fit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from walk_problem import Problem, assert_same

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import (
    Head,
    walk,
)


class MeanSquare:
    """A divergence of a user's own: only a name and a differentiable call."""

    name = "mean_square"

    def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        gap = student_logits.softmax(-1) - teacher_logits.softmax(-1)
        return gap.square().mean(-1)


def test_a_divergence_of_ones_own_needs_only_a_call() -> None:
    problem = Problem()
    groups = [problem.group(MeanSquare(), temperature=2.0), problem.cross_entropy()]
    assert_same(problem, groups, *problem.heads(softcap=3.0), chunk_rows=4, entropies=True)


def test_a_divergence_that_returns_the_wrong_shape_is_named() -> None:
    class Scalar(MeanSquare):
        def __call__(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
            return super().__call__(teacher_logits, student_logits).mean()

    problem = Problem()
    with pytest.raises(ValueError, match=r"mean_square.*one value per row"):
        walk([problem.group(Scalar())], *problem.heads())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"teacher_rows": None}, "needs teacher rows"),
        ({"teacher_rows": torch.zeros(3, 7)}, r"\(3, 7\).*11 rows"),
        ({"teacher_rows": torch.zeros(11, 6)}, r"\(11, 6\).*\(37, 7\)"),
        ({"row_weights": torch.ones(11, 1)}, "row weights"),
        ({"student_rows": torch.zeros(11, 4)}, r"\(11, 4\).*\(37, 5\)"),
        ({"divergence": "jsd"}, "make_divergence"),
    ],
)
def test_groups_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    problem = Problem()
    with pytest.raises(ValueError, match=message):
        walk([replace(problem.group(make_divergence("jsd")), **change)], *problem.heads())


def test_other_mistakes_are_refused() -> None:
    problem = Problem()
    group = problem.group(make_divergence("jsd"))
    student, teacher = problem.heads()
    with pytest.raises(ValueError, match="repeat"):
        walk([group, group], student, teacher)
    with pytest.raises(ValueError, match="no teacher head"):
        walk([group], student)
    with pytest.raises(ValueError, match="at least one group"):
        walk([], student)
    with pytest.raises(ValueError, match="chunk_rows = 0"):
        walk([group], student, teacher, chunk_rows=0)
    with pytest.raises(ValueError, match="labels from -100"):
        walk([problem.cross_entropy(labels=torch.full((11,), -100))], student)
    with pytest.raises(ValueError, match="softcap = 0"):
        Head(problem.weight, softcap=0.0)
    with pytest.raises(ValueError, match=r"bias has shape \(5,\)"):
        Head(problem.weight, torch.zeros(5))
