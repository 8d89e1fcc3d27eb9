"""The plain divergences against formulas written out here, their ranges, and their errors."""

import math

import pytest
import torch
from torch import Tensor

from distillens_plugin.divergences import (
    DIVERGENCES,
    AlphaBeta,
    Divergence,
    FarForwardKL,
    FusedDivergence,
    Jeffreys,
    JensenShannon,
    SkewForwardKL,
    adaptive_kl,
    alpha_beta,
    fkl_jsd,
    forward_kl,
    jeffreys,
    jensen_shannon,
    make_divergence,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    total_variation,
)
from distillens_plugin.divergences.softmax import softmax_rows


def distributions(seed: int = 0, rows: int = 6, vocab: int = 17) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, rows, vocab)
    teacher, student = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    return teacher, student


def kl(p: Tensor, q: Tensor) -> Tensor:
    """By the textbook, in float64, for positive p and q."""
    return (p * (p / q).log()).sum(-1)


def both_probs(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    return (
        teacher.exp() / teacher.exp().sum(-1, keepdim=True),
        student.exp() / student.exp().sum(-1, keepdim=True),
    )


def test_kl_both_ways_and_their_sum() -> None:
    teacher, student = distributions()
    p, q = both_probs(teacher, student)
    assert torch.allclose(forward_kl(teacher, student), kl(p, q), rtol=1e-12)
    assert torch.allclose(reverse_kl(teacher, student), kl(q, p), rtol=1e-12)
    both = jeffreys(teacher, student, forward=0.3, reverse=2.0)
    assert torch.allclose(both, 0.3 * kl(p, q) + 2.0 * kl(q, p), rtol=1e-12)


@pytest.mark.parametrize("beta", [1e-6, 0.1, 0.5, 0.9])
def test_jensen_shannon_is_the_formula(beta: float) -> None:
    teacher, student = distributions()
    p, q = both_probs(teacher, student)
    mixture = beta * p + (1 - beta) * q
    expected = beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)
    assert torch.allclose(
        jensen_shannon(teacher, student, beta=beta), expected, rtol=1e-8, atol=1e-15
    )


def test_jensen_shannon_ends_are_the_two_kls() -> None:
    teacher, student = distributions()
    assert torch.equal(jensen_shannon(teacher, student, beta=0), forward_kl(teacher, student))
    assert torch.equal(jensen_shannon(teacher, student, beta=1), reverse_kl(teacher, student))


def test_jensen_shannon_of_disjoint_distributions_is_log_two() -> None:
    teacher = torch.tensor([[200.0, 0.0]])
    assert jensen_shannon(teacher, teacher.flip(-1)).item() == pytest.approx(math.log(2), rel=5e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_fkl_jsd_is_forward_kl_of_far_rows_and_jensen_shannon_of_near_ones(beta: float) -> None:
    teacher, student = distributions()
    student[:3] = teacher[:3] + 0.1 * student[:3]
    p, q = both_probs(teacher, student)
    mixture = beta * p + (1 - beta) * q
    jsd = beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)
    threshold = float(jsd[:3].max() + jsd[3:].min()) / 2
    expected = torch.cat([jsd[:3], beta * (1 - beta) * kl(p, q)[3:]])
    leaf = student.clone().requires_grad_()
    value = fkl_jsd(teacher, leaf, beta=beta, threshold=threshold)
    assert torch.allclose(value, expected, rtol=1e-8)
    (found,) = torch.autograd.grad(value.sum(), leaf)
    # d KL(p||q) / d logits = q - p.
    assert torch.allclose(found[3:], (beta * (1 - beta) * (q - p))[3:], rtol=1e-8)
    near = student[:3].clone().requires_grad_()
    jensen_shannon(teacher[:3], near, beta=beta).sum().backward()
    assert torch.equal(found[:3], near.grad)


def test_fkl_jsd_has_one_size_on_both_sides_of_the_switch_for_near_rows() -> None:
    teacher, student = distributions()
    student = teacher + 1e-3 * student
    near = fkl_jsd(teacher, student)
    assert torch.allclose(0.25 * forward_kl(teacher, student), near, rtol=1e-2)


@pytest.mark.parametrize("padded", [False, True])
def test_fkl_jsd_own_gradient_of_equal_one_hot_and_padded_rows(padded: bool) -> None:
    teacher, student = (logits.float() for logits in distributions())
    student[:2] = teacher[:2]
    student[1] += 0.1 * student[2]
    teacher[3], student[4] = 0, 0
    teacher[3, 2], student[4, 5] = 200.0, 200.0
    absent = torch.zeros(6, 17, dtype=torch.bool)
    absent[:, 12:] = padded
    leaf = student.double().masked_fill(absent, -math.inf).requires_grad_()
    expected = fkl_jsd(teacher.double(), leaf)
    expected.sum().backward()
    rows = [softmax_rows(logits, torch.empty_like, absent) for logits in (teacher, student)]
    loss, gradient = FarForwardKL().loss_and_gradient(rows[0], rows[1], torch.empty_like)
    assert loss[0] == 0
    assert (loss[:2] < 0.1).all()
    assert torch.allclose(loss.double(), expected, rtol=1e-4, atol=1e-7)
    assert leaf.grad is not None
    close = torch.isclose(gradient.double(), leaf.grad, atol=1e-6)
    assert (close | absent).all()


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.7])
def test_skewed_kls_mix_their_first_argument_into_the_second(alpha: float) -> None:
    teacher, student = distributions()
    p, q = both_probs(teacher, student)
    forward = kl(p, alpha * p + (1 - alpha) * q)
    reverse = kl(q, (1 - alpha) * p + alpha * q)
    assert torch.allclose(skew_forward_kl(teacher, student, alpha=alpha), forward, rtol=1e-10)
    assert torch.allclose(skew_reverse_kl(teacher, student, alpha=alpha), reverse, rtol=1e-10)


def test_total_variation_is_half_the_absolute_difference() -> None:
    teacher, student = distributions()
    p, q = both_probs(teacher, student)
    assert torch.allclose(total_variation(teacher, student), (p - q).abs().sum(-1) / 2)


def test_adaptive_kl_by_hand() -> None:
    p = torch.tensor([[0.45, 0.3, 0.15, 0.1]], dtype=torch.float64)
    q = torch.tensor([[0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    # Sorted, the teacher's mass is 0.45 then 0.75: the head at mass 0.5 is the first token alone.
    head, tail = 0.2, 0.05 + 0.1 + 0.15
    expected = (head * kl(p, q) + tail * kl(q, p)) / (head + tail)
    assert torch.allclose(adaptive_kl(p.log(), q.log()), expected, rtol=1e-12)
    shuffled = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(adaptive_kl(p.log()[:, shuffled], q.log()[:, shuffled]), expected)


def test_adaptive_kl_head_is_never_empty() -> None:
    p = torch.tensor([[0.9, 0.06, 0.04]], dtype=torch.float64)
    q = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    expected = 0.5 * kl(p, q) + 0.5 * kl(q, p)
    # |p - q| is 0.4 for the first token, which holds more than half, and 0.4 for the rest.
    assert torch.allclose(adaptive_kl(p.log(), q.log()), expected, rtol=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 0.7), (0.5, 0.5), (1.5, -0.5), (-0.3, 1.2)])
def test_alpha_beta_is_the_formula(alpha: float, beta: float) -> None:
    teacher, student = distributions()
    p, q = both_probs(teacher, student)
    total = alpha + beta
    inside = p**alpha * q**beta - alpha / total * p**total - beta / total * q**total
    expected = inside.sum(-1) / (-alpha * beta)
    assert torch.allclose(alpha_beta(teacher, student, alpha=alpha, beta=beta), expected, rtol=1e-9)


def test_alpha_beta_tends_to_both_kls() -> None:
    teacher, student = distributions()
    near_forward = alpha_beta(teacher, student, alpha=1.0, beta=1e-6)
    near_reverse = alpha_beta(teacher, student, alpha=1e-6, beta=1.0)
    assert torch.allclose(near_forward, forward_kl(teacher, student), rtol=1e-4)
    assert torch.allclose(near_reverse, reverse_kl(teacher, student), rtol=1e-4)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_identical_models_have_no_divergence_and_no_nan_gradient(name: str) -> None:
    logits = distributions()[0].float()
    student = logits.clone().requires_grad_()
    value = make_divergence(name)(logits, student)
    value.sum().backward()
    assert torch.equal(value, torch.zeros(6))
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_column_absent_in_either_model_is_as_if_sliced_off(name: str) -> None:
    divergence = make_divergence(name)
    teacher, student = distributions()
    kept = divergence(teacher[:, :12], student[:, :12])
    student[:, 12:14] = -math.inf
    teacher[:, 13:] = -math.inf
    student.requires_grad_()
    value = divergence(teacher, student)
    value.sum().backward()
    assert torch.allclose(value, kept, rtol=1e-12)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert (student.grad[:, 12:] == 0).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_never_negative_and_finite_for_extreme_logits(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    teacher, student = torch.randn((2, 8, 50), generator=generator) * 1e4
    value = make_divergence(name)(teacher, student)
    assert torch.isfinite(value).all()
    assert (value >= 0).all()


def test_half_precision_is_computed_in_float32() -> None:
    teacher, student = distributions()
    value = forward_kl(teacher.half(), student.half())
    assert value.dtype == torch.float32
    assert torch.equal(value, forward_kl(teacher.half().float(), student.half().float()))


def test_shapes_that_differ_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 4\)"):
        forward_kl(torch.zeros(2, 5), torch.zeros(2, 4))


def test_every_name_makes_an_object_of_that_name() -> None:
    for name in DIVERGENCES:
        divergence = make_divergence(name)
        assert divergence.name == name
        assert isinstance(divergence, Divergence)
        assert isinstance(divergence, FusedDivergence)


def test_parameters_reach_the_object_that_reads_them() -> None:
    assert make_divergence("jsd", beta=0.3) == JensenShannon(0.3)
    assert make_divergence("skew_fkl", alpha=0.2) == SkewForwardKL(0.2)
    assert make_divergence("alpha_beta", alpha=0.4) == AlphaBeta(0.4, 0.7)
    assert make_divergence("fkl+rkl", coefficients=(1.0, 0.5)) == Jeffreys(1.0, 0.5)
    assert make_divergence("fkl", beta=0.5).name == "fkl"


@pytest.mark.parametrize("threshold", [0.0, 0.7, math.nan])
def test_a_switch_that_jensen_shannon_never_crosses_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"^threshold = {threshold}, expected a number in \(0"):
        FarForwardKL(threshold=threshold)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jds", {}, "jds.*jsd"),
        ("jsd", {"beta": 1.5}, "beta = 1.5"),
        ("jsd", {"beta": math.nan}, "beta = nan"),
        ("fkl_jsd", {"beta": 0.0}, r"^beta = 0.0, expected a number in \(0, 1\)$"),
        ("fkl_jsd", {"beta": 1.0}, r"^beta = 1.0, expected a number in \(0, 1\)$"),
        ("skew_rkl", {"alpha": 1.0}, "alpha = 1.0"),
        ("jeffreys", {"coefficients": (0.0, 0.0)}, "coefficients"),
        ("akl", {"head_mass": 0.0}, "head_mass = 0.0"),
        ("alpha_beta", {"alpha": 0.5, "beta": -0.5}, "alpha = 0.5, beta = -0.5"),
    ],
)
def test_bad_parameters_are_refused_with_their_value(
    name: str, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_divergence(name, **options)
