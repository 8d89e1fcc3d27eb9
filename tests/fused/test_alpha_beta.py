"""The alpha-beta divergence in the fused walk, at exponents whose powers of 0 are not small."""

import math

import pytest
import torch
from walk_problem import Problem

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import Head, walk, walk_naive
from distillens_plugin.fused.compiled import compiled_segment

EXPONENTS = [(0.2, 0.7), (0.05, 0.05), (-0.3, 1.2), (1.5, -0.5)]


@pytest.mark.parametrize(("alpha", "beta"), EXPONENTS)
@pytest.mark.parametrize("compiled", [False, True])
def test_absent_columns_add_nothing(alpha, beta, compiled, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    compiled_segment.cache_clear()
    problem = Problem(vocab=(200, 200))
    group = problem.group(make_divergence("alpha_beta", alpha=alpha, beta=beta))
    weights = problem.weight[:16], problem.bias[:16]
    teacher = problem.teacher_weight, problem.teacher_bias.clone()
    kept = walk([group], Head(*weights), Head(teacher[0][:16], teacher[1][:16]))
    expected = problem.gradients(kept)
    bias = problem.bias.detach().clone()
    bias[16:150], teacher[1][100:] = -math.inf, -math.inf
    problem.bias = bias.requires_grad_()
    heads = Head(problem.weight, problem.bias), Head(*teacher)
    result = walk([group], *heads, compile_blocks=compiled)
    torch.testing.assert_close(result.loss, kept.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(walk_naive([group], *heads).loss, kept.loss, rtol=1e-12, atol=0)
    for gradient, other in zip(problem.gradients(result), expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-14)
    compiled_segment.cache_clear()


@pytest.mark.parametrize(("alpha", "beta"), [(-1.0, 0.5), (0.5, -0.5), (-0.2, -0.3)])
def test_exponents_whose_sum_is_not_above_zero_are_refused(alpha, beta):
    """Far apart models would give inf - inf: powers of the rarest tokens leave float32."""
    with pytest.raises(ValueError, match=rf"^alpha = {alpha}, beta = {beta}: .* a sum above 0"):
        make_divergence("alpha_beta", alpha=alpha, beta=beta)
