"""The fused walk against plain autograd and float64: values, gradients, groups, chunks."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillens_plugin.divergences import DIVERGENCES, Divergence, FarForwardKL, make_divergence
from distillens_plugin.fused import (
    CROSS_ENTROPY,
    Group,
    Head,
    WalkResult,
    lens_divergence,
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
