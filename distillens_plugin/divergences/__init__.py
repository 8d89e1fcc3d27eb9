"""Divergences between a teacher's and a student's next-token distributions, in nats, per row.

`table` has their names and parameters. `make_divergence` makes an object for the fused walk from a
name. `functions` has them as plain differentiable functions of two logit tensors.
`register_divergence` adds one of your own. The names and the table load no torch; the rest does.
"""

from typing import TYPE_CHECKING

from distillens_plugin.divergences.parameters import Parameter
from distillens_plugin.divergences.table import (
    DIVERGENCES,
    divergence_names,
    make_divergence,
    register_divergence,
)
from distillens_plugin.tables.ranges import Range

if TYPE_CHECKING:
    from distillens_plugin.divergences.functions import (
        adaptive_kl,
        alpha_beta,
        fkl_jsd,
        forward_kl,
        jeffreys,
        jensen_shannon,
        reverse_kl,
        skew_forward_kl,
        skew_reverse_kl,
        total_variation,
    )
    from distillens_plugin.divergences.kl import AdaptiveKL, ForwardKL, Jeffreys, ReverseKL
    from distillens_plugin.divergences.mixtures import JensenShannon, SkewForwardKL, SkewReverseKL
    from distillens_plugin.divergences.powers import AlphaBeta, TotalVariation
    from distillens_plugin.divergences.protocol import Divergence, FusedDivergence
    from distillens_plugin.divergences.switching import FarForwardKL

_HOMES = {
    "functions": (
        "adaptive_kl",
        "alpha_beta",
        "fkl_jsd",
        "forward_kl",
        "jeffreys",
        "jensen_shannon",
        "reverse_kl",
        "skew_forward_kl",
        "skew_reverse_kl",
        "total_variation",
    ),
    "kl": ("AdaptiveKL", "ForwardKL", "Jeffreys", "ReverseKL"),
    "mixtures": ("JensenShannon", "SkewForwardKL", "SkewReverseKL"),
    "powers": ("AlphaBeta", "TotalVariation"),
    "protocol": ("Divergence", "FusedDivergence"),
    "switching": ("FarForwardKL",),
}

__all__ = [
    "DIVERGENCES",
    "AdaptiveKL",
    "AlphaBeta",
    "Divergence",
    "FarForwardKL",
    "ForwardKL",
    "FusedDivergence",
    "Jeffreys",
    "JensenShannon",
    "Parameter",
    "Range",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
    "TotalVariation",
    "adaptive_kl",
    "alpha_beta",
    "divergence_names",
    "fkl_jsd",
    "forward_kl",
    "jeffreys",
    "jensen_shannon",
    "make_divergence",
    "register_divergence",
    "reverse_kl",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
]


def __getattr__(name: str) -> object:
    """Functions and classes, imported when asked for: they load torch."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
