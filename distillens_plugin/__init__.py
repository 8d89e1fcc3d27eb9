"""DistillLens for torchdistill: align intermediate next-token distributions while distilling.

`dependencies: [{name: distillens_plugin}]` in a torchdistill recipe imports this package, which
registers its losses. Without torchdistill the fused lens still imports, for people on other
trainers: `from distillens_plugin import lens_divergence`.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillens_plugin.fused import lens_divergence
    from distillens_plugin.loss import CrossEntropy, DistillLensLoss, LogitsKD
    from distillens_plugin.weighted_sum import WeightedSum

__version__ = "0.1.0"

_HOMES = {
    "lens_divergence": "distillens_plugin.fused",
    "DistillLensLoss": "distillens_plugin.loss",
    "LogitsKD": "distillens_plugin.loss",
    "CrossEntropy": "distillens_plugin.loss",
    "WeightedSum": "distillens_plugin.weighted_sum",
}
__all__ = ["CrossEntropy", "DistillLensLoss", "LogitsKD", "WeightedSum", "lens_divergence"]


def __getattr__(name: str) -> Any:
    """Public names, imported when asked for."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if find_spec("torchdistill") is not None:
    from distillens_plugin.registry import register

    register()
