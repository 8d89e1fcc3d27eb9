"""The fused walk at its edges: equal models, extreme logits, absent columns, no rows."""

import math
from dataclasses import replace

import pytest
import torch
from walk_problem import ALL, Problem, assert_same

from distillens_plugin.divergences import Divergence, make_divergence
from distillens_plugin.fused import (
    Group,
    Head,
    walk,
    walk_naive,
)


@pytest.mark.parametrize("divergence", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_models_give_exactly_zero(divergence: Divergence, dtype: torch.dtype) -> None:
    problem = Problem(dtype=dtype, spread=2.0, vocab=(501, 501))
    head = Head(problem.weight, problem.bias)
    group = replace(problem.group(divergence), teacher_rows=problem.hidden.detach())
    result = walk([group], head, Head(problem.weight.detach(), problem.bias.detach()))
    assert result.loss.item() == 0
    for gradient in problem.gradients(result):
        assert (gradient == 0).all()


@pytest.mark.parametrize("divergence", ALL, ids=str)
@pytest.mark.parametrize("spread", [1.0, 40.0, 1e4])
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_extreme_logits_give_finite_values(
    divergence: Divergence, spread: float, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn((6, 64), generator=generator) * spread).clamp(-1e4, 1e4).requires_grad_()
    teacher = (torch.randn((6, 64), generator=generator) * spread).clamp(-1e4, 1e4)
    weight = torch.eye(64).requires_grad_()
    group = Group("d", hidden, divergence, teacher, temperature=temperature)
    result = walk([group], Head(weight), Head(torch.eye(64)))
    reference = walk_naive(
        [replace(group, student_rows=hidden.double(), teacher_rows=teacher.double())],
        Head(weight.double()),
        Head(torch.eye(64).double()),
    )
    assert result.loss.item() >= 0
    # Clamped logits tie, and which of the tied tokens are AKL's head is rounding's choice.
    if divergence.name != "akl":
        assert result.loss.item() == pytest.approx(reference.loss.item(), rel=5e-6, abs=1e-7)
    for gradient in torch.autograd.grad(result.loss, (hidden, weight)):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_absent_columns_contribute_nothing(divergence: Divergence) -> None:
    problem = Problem(vocab=(20, 20))
    kept = walk(
        [problem.group(divergence)],
        Head(problem.weight[:16], problem.bias[:16]),
        Head(problem.teacher_weight[:16], problem.teacher_bias[:16]),
    )
    expected = problem.gradients(kept)
    bias, teacher_bias = problem.bias.detach().clone(), problem.teacher_bias.clone()
    bias[16:18] = -math.inf
    teacher_bias[17:] = -math.inf
    problem.bias = bias.requires_grad_()
    student, teacher = problem.heads()[0], Head(problem.teacher_weight, teacher_bias)
    result = walk([problem.group(divergence)], student, teacher)
    torch.testing.assert_close(result.loss, kept.loss, rtol=1e-12, atol=0)
    gradients = problem.gradients(result)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-14)
    assert (gradients[1][16:] == 0).all()


def test_cross_entropy_gives_absent_columns_no_gradient() -> None:
    problem = Problem(vocab=(20, 20))
    problem.labels.clamp_(max=9)
    bias = problem.bias.detach().clone()
    bias[10:] = -math.inf
    problem.bias = bias.requires_grad_()
    assert_same(problem, [problem.cross_entropy()], problem.heads()[0], None, entropies=True)
    gradients = problem.gradients(walk([problem.cross_entropy()], problem.heads()[0]))
    assert (gradients[1][10:] == 0).all()


def test_no_rows_give_zero_with_a_graph() -> None:
    problem = Problem(rows=0)
    result = walk(
        [problem.group(make_divergence("jsd")), problem.cross_entropy()], *problem.heads()
    )
    assert result.loss.item() == 0
    hidden, weight, bias = problem.gradients(result)
    assert hidden.shape == (0, 5)
    assert (weight == 0).all()
    assert (bias == 0).all()


def test_row_weights_that_are_all_zero_give_zero() -> None:
    problem = Problem()
    group = problem.group(make_divergence("fkl"), row_weights=torch.zeros(11))
    result = walk([group], *problem.heads())
    assert result.loss.item() == 0
    assert all((gradient == 0).all() for gradient in problem.gradients(result))


def test_larger_vocabulary_of_one_model_is_cut_not_padded() -> None:
    for vocab in ((30, 40), (40, 30)):
        problem = Problem(vocab=vocab)
        group = problem.group(make_divergence("jsd"))
        cut = walk(
            [group],
            Head(problem.weight[:30], problem.bias[:30]),
            Head(problem.teacher_weight[:30], problem.teacher_bias[:30]),
        )
        whole = walk([group], *problem.heads())
        torch.testing.assert_close(whole.loss, cut.loss, rtol=1e-12, atol=0)
        assert (problem.gradients(whole)[1][30:] == 0).all()
