"""The fused walk against plain autograd and float64: values, gradients, groups, chunks."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from walk_problem import ALL, Problem, assert_same

from distillens_plugin.divergences import DIVERGENCES, Divergence, make_divergence
from distillens_plugin.fused import (
    lens_divergence,
    walk,
    walk_naive,
)


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_equals_plain_autograd(divergence: Divergence) -> None:
    problem = Problem()
    group = problem.group(divergence, row_weights=problem.row_weights, temperature=1.7)
    assert_same(problem, [group], *problem.heads(), chunk_rows=4, entropies=True)


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_float32_is_close_to_float64(divergence: Divergence) -> None:
    wide, narrow = Problem(vocab=(997, 997)), Problem(vocab=(997, 997), dtype=torch.float32)
    exact = walk_naive([wide.group(divergence)], *wide.heads())
    fused = walk([narrow.group(divergence)], *narrow.heads())
    assert fused.loss.dtype == torch.float32
    assert abs(fused.loss.item() - exact.loss.item()) < max(1e-7, 5e-6 * exact.loss.item())
    for gradient, other in zip(narrow.gradients(fused), wide.gradients(exact), strict=True):
        assert (gradient - other).abs().max() < 1e-4 * other.abs().max()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradcheck(name: str) -> None:
    problem = Problem(rows=4, vocab=(9, 11))

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return lens_divergence(
            hidden,
            weight,
            problem.teacher_hidden,
            problem.teacher_weight,
            divergence=name,
            student_bias=bias,
            student_softcap=3.0,
            teacher_softcap=4.0,
            temperature=0.8,
            row_weights=problem.row_weights,
            chunk_rows=3,
        )

    # AKL's shares carry no gradient by definition, so a numerical derivative sees another function.
    if name != "akl":
        assert torch.autograd.gradcheck(loss, (problem.hidden, problem.weight, problem.bias))


@settings(max_examples=60, deadline=None)
@given(
    divergence=st.sampled_from(ALL),
    rows=st.integers(0, 9),
    student_vocab=st.integers(2, 40),
    teacher_vocab=st.integers(2, 40),
    chunk_rows=st.one_of(st.none(), st.integers(1, 10)),
    temperature=st.sampled_from((0.5, 1.0, 4.0)),
    softcap=st.sampled_from((None, 2.0)),
    scale=st.sampled_from((1.0, 0.3)),
    weighted=st.booleans(),
    detach=st.booleans(),
    with_labels=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_combination_equals_plain_autograd(
    divergence: Divergence,
    rows: int,
    student_vocab: int,
    teacher_vocab: int,
    chunk_rows: int | None,
    temperature: float,
    softcap: float | None,
    scale: float,
    weighted: bool,
    detach: bool,
    with_labels: bool,
    seed: int,
) -> None:
    problem = Problem(rows, vocab=(student_vocab, teacher_vocab), seed=seed)
    group = problem.group(
        divergence,
        temperature=temperature,
        row_weights=problem.row_weights if weighted else None,
        detach_unembedding=detach,
        weight=0.7,
    )
    groups = [group, problem.cross_entropy(weight=0.4)] if with_labels else [group]
    student, teacher = problem.heads()
    student = replace(student, softcap=softcap, scale=scale)
    if detach and not with_labels:
        fused, naive = (f(groups, student, teacher) for f in (walk, walk_naive))
        found, expected = (torch.autograd.grad(r.loss, problem.hidden)[0] for r in (fused, naive))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    else:
        assert_same(problem, groups, student, teacher, chunk_rows=chunk_rows)


def test_groups_of_different_rows_share_chunks_and_one_weight_gradient() -> None:
    problem, other = Problem(rows=10), Problem(rows=6, seed=1)
    groups = [
        problem.group(make_divergence("jsd"), name="layer 1", denominator=torch.tensor(4.0)),
        other.group(make_divergence("fkl"), name="layer 2", denominator=3.0, temperature=2.0),
        problem.cross_entropy(row_weights=problem.row_weights, weight=0.5),
        other.group(make_divergence("rkl"), name="detached", detach_unembedding=True),
        replace(other.cross_entropy(), name="labels alone"),
    ]
    student, teacher = problem.heads()
    for chunk_rows in (1, 5, 7, 100):
        assert_same(problem, groups, student, teacher, chunk_rows=chunk_rows, entropies=True)
    fused, naive = walk(groups, student, teacher), walk_naive(groups, student, teacher)
    torch.testing.assert_close(
        torch.autograd.grad(fused.loss, other.hidden), torch.autograd.grad(naive.loss, other.hidden)
    )


def test_groups_that_share_rows_share_the_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(rows=8)
    products = []
    multiply = torch.mm

    def counted(*args: Tensor, **kwargs: Tensor) -> Tensor:
        products.append(args[0].shape)
        return multiply(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", counted)
    groups = [problem.group(make_divergence(name)) for name in ("jsd", "fkl")]
    walk([*groups, problem.cross_entropy()], *problem.heads()).loss.backward()
    # Logits of the student and of the teacher, the gradient of the rows and of the weight.
    assert products == [(8, 5), (8, 7), (8, 37), (37, 8)]


def test_result_does_not_depend_on_chunks() -> None:
    problem = Problem(rows=23)
    groups = [problem.group(make_divergence("jsd"))]
    whole = walk(groups, *problem.heads(), chunk_rows=23)
    parts = walk(groups, *problem.heads(), chunk_rows=2)
    torch.testing.assert_close(whole.loss, parts.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(problem.gradients(whole), problem.gradients(parts))


def test_only_what_asks_gets_a_gradient() -> None:
    problem = Problem()
    problem.weight.requires_grad_(False)
    problem.bias.requires_grad_(False)
    walk([problem.group(make_divergence("jsd"))], *problem.heads()).loss.backward()
    assert problem.hidden.grad is not None
    assert problem.weight.grad is None
    with torch.no_grad():
        assert not walk(
            [problem.group(make_divergence("jsd"))], *problem.heads()
        ).loss.requires_grad
    problem.hidden.requires_grad_(False)
    assert not walk([problem.group(make_divergence("jsd"))], *problem.heads()).loss.requires_grad
