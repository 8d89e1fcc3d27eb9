"""The divergences as plain differentiable functions, one value per row: the fused forms' reference.

p is the teacher's distribution, q the student's, both softmax over the last dimension. float64
logits are computed in float64, everything else in float32. A column that is -inf in either model is
removed from both, like an id outside their common vocabulary: it adds nothing to the value or to a
gradient.

Legend: N rows, V vocabulary.
"""

import torch
from torch import Tensor

from distillens_plugin.divergences.parameters import (
    FORWARD_SKEW,
    HEAD_MASS,
    INNER_BETA,
    JSD_BETA,
    REVERSE_SKEW,
    SWITCH,
    check_alpha_beta,
    check_coefficients,
)

# Stands for -inf where inf - inf must not arise; its probability is exactly 0 in either float type.
_ABSENT = -1e30
# exp(60) is the largest ratio of probabilities that a mixture is computed from; beyond it the
# mixture equals its larger part to the last digit, and exp would overflow float32 at 88.
_MAX_LOG_RATIO = 60.0


def forward_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(p||q) per row, in nats.

    Args:
        teacher_logits: [N, V], any float type.
        student_logits: [N, V].
    Returns:
        [N] float32 (float64 for float64 logits), never negative.
    Raises:
        ValueError: the shapes differ.
    """
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    return _not_negative((log_p.exp() * (log_p - log_q)).sum(-1))


def reverse_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(q||p) per row, in nats. Arguments, result and errors as `forward_kl`."""
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    return _not_negative((log_q.exp() * (log_q - log_p)).sum(-1))


def jeffreys(
    teacher_logits: Tensor, student_logits: Tensor, *, forward: float = 1.0, reverse: float = 1.0
) -> Tensor:
    """forward KL(p||q) + reverse KL(q||p) per row, in nats.

    With both coefficients 1 it is Jeffreys' divergence, the paper's FKL+RKL.

    Args:
        teacher_logits, student_logits: [N, V], as `forward_kl`.
        forward, reverse: coefficients, >= 0 and not both 0.
    Returns:
        [N], never negative.
    Raises:
        ValueError: the shapes differ, or a coefficient is out of range.
    """
    check_coefficients((forward, reverse))
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    log_ratio = log_p - log_q
    weight = forward * log_p.exp() - reverse * log_q.exp()
    return _not_negative((weight * log_ratio).sum(-1))


def jensen_shannon(teacher_logits: Tensor, student_logits: Tensor, *, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence per row, in nats.

    beta KL(p||m) + (1 - beta) KL(q||m) with m = beta p + (1 - beta) q; at most ln 2 at beta 0.5.
    The formula vanishes towards both ends; by TRL's convention beta exactly 0 means KL(p||q) and
    exactly 1 means KL(q||p), which is a jump.

    Args:
        teacher_logits, student_logits: [N, V], as `forward_kl`.
        beta: weight of the teacher, in [0, 1].
    Returns:
        [N], never negative.
    Raises:
        ValueError: the shapes differ, or beta is outside [0, 1].
    Source: Agarwal et al. 2024, arXiv 2306.13649, eq. 1.
    """
    JSD_BETA.check("beta", beta)
    if beta == 0:
        return forward_kl(teacher_logits, student_logits)
    if beta == 1:
        return reverse_kl(teacher_logits, student_logits)
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    teacher_part, student_part = _kl_to_mixture(log_p, log_q, beta)
    return _not_negative(beta * teacher_part + (1 - beta) * student_part)


def fkl_jsd(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    beta: float = 0.5,
    threshold: float = 0.1,
) -> Tensor:
    """beta (1 - beta) KL(p||q) where the Jensen-Shannon divergence is at least `threshold`, else
    that divergence itself, per row, in nats.

    JSD's gradient towards a student's logit is of the order of the student's own probability, hence
    tiny for a token that a flat student hardly expects; forward KL's is q - p. The factor makes
    both of one size where p is near q, but the value jumps at the switch, which has no gradient.

    Args:
        teacher_logits, student_logits: [N, V], as `forward_kl`.
        beta: weight of the teacher in the mixture, in (0, 1).
        threshold: of the Jensen-Shannon divergence, above 0 and at most ln 2.
    Returns:
        [N], never negative.
    Raises:
        ValueError: the shapes differ, or a parameter is out of range.
    """
    INNER_BETA.check("beta", beta)
    SWITCH.check("threshold", threshold)
    near = jensen_shannon(teacher_logits, student_logits, beta=beta)
    far = beta * (1 - beta) * forward_kl(teacher_logits, student_logits)
    return torch.where(near.detach() >= threshold, far, near)


def skew_forward_kl(
    teacher_logits: Tensor, student_logits: Tensor, *, alpha: float = 0.1
) -> Tensor:
    """KL(p||alpha p + (1 - alpha) q) per row, in nats; at most -ln alpha.

    Args:
        teacher_logits, student_logits: [N, V], as `forward_kl`.
        alpha: share of the teacher in the mixture, in [0, 1); 0 is `forward_kl`.
    Returns:
        [N], never negative.
    Raises:
        ValueError: the shapes differ, or alpha is outside [0, 1).
    Source: Ko et al. 2024 (DistiLLM), arXiv 2402.03898, eq. 4.
    """
    FORWARD_SKEW.check("alpha", alpha)
    if alpha == 0:
        return forward_kl(teacher_logits, student_logits)
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    return _not_negative(_kl_to_mixture(log_p, log_q, alpha)[0])


def skew_reverse_kl(
    teacher_logits: Tensor, student_logits: Tensor, *, alpha: float = 0.1
) -> Tensor:
    """KL(q||(1 - alpha) p + alpha q) per row, in nats; at most -ln alpha.

    Args:
        teacher_logits, student_logits: [N, V], as `forward_kl`.
        alpha: share of the student in the mixture, in [0, 1); 0 is `reverse_kl`.
    Returns:
        [N], never negative.
    Raises:
        ValueError: the shapes differ, or alpha is outside [0, 1).
    Source: Ko et al. 2024 (DistiLLM), arXiv 2402.03898, eq. 5.
    """
    REVERSE_SKEW.check("alpha", alpha)
    if alpha == 0:
        return reverse_kl(teacher_logits, student_logits)
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    return _not_negative(_kl_to_mixture(log_p, log_q, 1 - alpha)[1])


def adaptive_kl(
    teacher_logits: Tensor, student_logits: Tensor, *, head_mass: float = 0.5
) -> Tensor:
    """FKL and RKL weighted by where the student is further off, per row, in nats.

    The head is the teacher's likeliest tokens with total mass at most `head_mass` (always at least
    one), the tail the rest; FKL's share is the head's part of the sum of |p - q|, RKL's the tail's.
    The shares carry no gradient. Where p = q both are 0.5 (the paper's code divides 0 by 0 there).

    Args:
        teacher_logits, student_logits: [N, V], as `forward_kl`.
        head_mass: in (0, 1).
    Returns:
        [N], never negative.
    Raises:
        ValueError: the shapes differ, or head_mass is outside (0, 1).
    Source: Wu et al. 2024, arXiv 2404.02657, eq. 10 to 12.
    """
    HEAD_MASS.check("head_mass", head_mass)
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    p, q = log_p.exp(), log_q.exp()
    forward, reverse = head_and_tail_shares(p.detach(), q.detach(), head_mass)
    log_ratio = log_p - log_q
    return _not_negative(((forward * p - reverse * q) * log_ratio).sum(-1))


def total_variation(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Half the sum of |p - q| per row, in [0, 1]. Arguments, result and errors as `forward_kl`."""
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def alpha_beta(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    alpha: float = 0.2,
    beta: float = 0.7,
) -> Tensor:
    """The alpha-beta divergence of ABKD per row.

    -1 / (alpha beta) sum(p^alpha q^beta - alpha/s p^s - beta/s q^s) with s = alpha + beta. Its
    limits are forward KL at (1, 0) and reverse KL at (0, 1), which have names of their own here.

    Args:
        teacher_logits, student_logits: [N, V], as `forward_kl`.
        alpha, beta: exponents of the teacher and the student; neither is 0, and their sum is above
            0. With a negative one the value is infinite where float32 cannot hold a power.
    Returns:
        [N], never negative.
    Raises:
        ValueError: the shapes differ, an exponent is 0, or their sum is not above 0.
    Source: Wang et al. 2025 (ABKD), arXiv 2505.04560, eq. 8; Cichocki et al. 2011.
    """
    check_alpha_beta(alpha, beta)
    log_p, log_q = _log_probs(teacher_logits, student_logits)
    absent = log_q <= _ABSENT / 2
    cross, teacher_part = alpha_beta_parts(
        log_p.masked_fill(absent, 0), log_q.masked_fill(absent, 0), alpha, beta
    )
    terms = (cross - alpha / (alpha + beta) * teacher_part).masked_fill(absent, 0)
    return _not_negative(terms.sum(-1) / (-alpha * beta))


def alpha_beta_parts(
    log_p: Tensor, log_q: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """p^alpha q^beta - q^s and p^s - q^s, [N, V] each, exactly 0 where p = q."""
    total = alpha + beta
    log_ratio = log_p - log_q
    near = log_ratio.abs() < 1
    # Differences of nearly equal powers lose their digits; expm1 keeps them.
    small = log_ratio.clamp(-1, 1)
    power = _power(total * log_q)
    cross = _power(alpha * log_p + beta * log_q) - power
    teacher_part = _power(total * log_p) - power
    return (
        torch.where(near, power * torch.expm1(alpha * small), cross),
        torch.where(near, power * torch.expm1(total * small), teacher_part),
    )


def head_and_tail_shares(p: Tensor, q: Tensor, head_mass: float) -> tuple[Tensor, Tensor]:
    """AKL's two shares, each [N, 1]; they sum to 1."""
    sorted_p, order = p.sort(dim=-1, descending=True)
    in_head = sorted_p.cumsum(-1) <= head_mass
    in_head[..., 0] = True
    gap = (sorted_p - q.gather(-1, order)).abs_()
    whole = gap.sum(-1, keepdim=True)
    head = gap.mul_(in_head).sum(-1, keepdim=True)
    forward = torch.where(whole > 0, head / whole.clamp_min(torch.finfo(p.dtype).tiny), 0.5)
    return forward, 1 - forward


def _log_probs(teacher_logits: Tensor, student_logits: Tensor) -> tuple[Tensor, Tensor]:
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher logits {tuple(teacher_logits.shape)} and student logits "
            f"{tuple(student_logits.shape)} differ in shape; slice both to their common vocabulary"
        )
    wide = torch.float64 in (teacher_logits.dtype, student_logits.dtype)
    dtype = torch.float64 if wide else torch.float32
    absent = torch.isneginf(teacher_logits) | torch.isneginf(student_logits)
    # Filled rather than dropped: log p - log q and the probability are then exactly 0 there.
    log_p = teacher_logits.to(dtype).masked_fill(absent, _ABSENT).log_softmax(-1)
    log_q = student_logits.to(dtype).masked_fill(absent, _ABSENT).log_softmax(-1)
    return log_p.masked_fill(absent, _ABSENT), log_q.masked_fill(absent, _ABSENT)


def _power(exponent: Tensor) -> Tensor:
    # 1e-30 stands for anything smaller, as denormal numbers slow matrix products down.
    return exponent.clamp_min(-69).exp()


def _kl_to_mixture(log_p: Tensor, log_q: Tensor, teacher_share: float) -> tuple[Tensor, Tensor]:
    """KL(p||m) and KL(q||m), m = share p + (1 - share) q; accurate also where p is close to q."""
    log_ratio = (log_p - log_q).clamp_max(_MAX_LOG_RATIO)
    log_mixture_over_q = torch.log1p(teacher_share * torch.expm1(log_ratio))
    teacher_part = (log_p.exp() * (log_ratio - log_mixture_over_q)).sum(-1)
    return teacher_part, -(log_q.exp() * log_mixture_over_q).sum(-1)


def _not_negative(value: Tensor) -> Tensor:
    # Rounding can leave -1e-8 where p is close to q; the gradient there is right and stays.
    return value + (value.detach().clamp_min(0) - value.detach())
