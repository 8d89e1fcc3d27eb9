"""Divergences between a teacher's and a student's next-token distributions, in nats, per row.

`functions` has them as plain differentiable functions of two logit tensors; `objects` as objects
that hold their parameters, which the fused walk takes; `make_divergence` makes an object from a
name.
"""

from collections.abc import Callable

from distillens_plugin.divergences.functions import (
    DEFAULT_ALPHA_BETA,
    DEFAULT_SKEW,
    adaptive_kl,
    alpha_beta,
    forward_kl,
    jeffreys,
    jensen_shannon,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    total_variation,
)
from distillens_plugin.divergences.objects import (
    AdaptiveKL,
    AlphaBeta,
    Divergence,
    ForwardKL,
    FusedDivergence,
    Jeffreys,
    JensenShannon,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    TotalVariation,
)

DIVERGENCES = (
    "jsd",
    "fkl",
    "rkl",
    "jeffreys",
    "skew_fkl",
    "skew_rkl",
    "akl",
    "tvd",
    "alpha_beta",
)

__all__ = [
    "DIVERGENCES",
    "AdaptiveKL",
    "AlphaBeta",
    "Divergence",
    "ForwardKL",
    "FusedDivergence",
    "Jeffreys",
    "JensenShannon",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
    "TotalVariation",
    "adaptive_kl",
    "alpha_beta",
    "forward_kl",
    "jeffreys",
    "jensen_shannon",
    "make_divergence",
    "reverse_kl",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
]


def make_divergence(
    name: str,
    *,
    beta: float | None = None,
    alpha: float | None = None,
    coefficients: tuple[float, float] = (1.0, 1.0),
    head_mass: float = 0.5,
) -> Divergence:
    """A divergence object from its name.

    Each name reads only its own parameters, so that one set can be kept while the name is changed.

    Args:
        name: one of DIVERGENCES; "fkl+rkl" is another name of "jeffreys".
        beta: jsd, weight of the teacher in [0, 1] (default 0.5; exactly 0 is FKL, exactly 1 is
            RKL); alpha_beta, exponent of the student (default 0.7).
        alpha: skew_fkl and skew_rkl, in [0, 1) (default 0.1); alpha_beta, exponent of the teacher
            (default 0.2).
        coefficients: jeffreys, of FKL and RKL; >= 0, not both 0.
        head_mass: akl, in (0, 1).
    Raises:
        ValueError: an unknown name, or a parameter of this divergence out of its range.
    """
    skew = DEFAULT_SKEW if alpha is None else alpha
    exponents = (
        DEFAULT_ALPHA_BETA[0] if alpha is None else alpha,
        DEFAULT_ALPHA_BETA[1] if beta is None else beta,
    )
    makers: dict[str, Callable[[], Divergence]] = {
        "jsd": lambda: JensenShannon(0.5 if beta is None else beta),
        "fkl": ForwardKL,
        "rkl": ReverseKL,
        "jeffreys": lambda: Jeffreys(*coefficients),
        "skew_fkl": lambda: SkewForwardKL(skew),
        "skew_rkl": lambda: SkewReverseKL(skew),
        "akl": lambda: AdaptiveKL(head_mass),
        "tvd": TotalVariation,
        "alpha_beta": lambda: AlphaBeta(*exponents),
    }
    maker = makers.get("jeffreys" if name == "fkl+rkl" else name)
    if maker is None:
        raise ValueError(f"divergence = {name!r}, expected one of {', '.join(DIVERGENCES)}")
    return maker()
