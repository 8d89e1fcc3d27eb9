"""DistillLens for torchdistill: align intermediate next-token distributions while distilling.

`dependencies: [{name: distillens_plugin}]` in a torchdistill recipe imports this package. Its keys
are registered at once where torchdistill is loaded, and otherwise as soon as it is: importing this
package loads neither. Without torchdistill the fused lens works too, for people on other trainers:
`from distillens_plugin import lens_divergence`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from distillens_plugin.integrations.when_loaded import when_loaded

if TYPE_CHECKING:
    from distillens_plugin.attached.attached_lens import AttachedLens
    from distillens_plugin.fused import lens_divergence
    from distillens_plugin.lens_maps.batches import lens_batches
    from distillens_plugin.lens_maps.choice import choose_layers
    from distillens_plugin.lens_maps.matrix import layer_matrix
    from distillens_plugin.lens_maps.pairs import monotone_pairs
    from distillens_plugin.lens_maps.statistics import layer_statistics
    from distillens_plugin.lens_maps.tokens import token_table
    from distillens_plugin.losses.final_logits import CrossEntropy, LogitsKD
    from distillens_plugin.losses.lens import DistillLensLoss
    from distillens_plugin.losses.weighted_sum import WeightedSum

__version__ = "0.1.0"

_HOMES = {
    "AttachedLens": "distillens_plugin.attached.attached_lens",
    "choose_layers": "distillens_plugin.lens_maps.choice",
    "layer_matrix": "distillens_plugin.lens_maps.matrix",
    "layer_statistics": "distillens_plugin.lens_maps.statistics",
    "lens_batches": "distillens_plugin.lens_maps.batches",
    "monotone_pairs": "distillens_plugin.lens_maps.pairs",
    "token_table": "distillens_plugin.lens_maps.tokens",
    "lens_divergence": "distillens_plugin.fused",
    "DistillLensLoss": "distillens_plugin.losses.lens",
    "LogitsKD": "distillens_plugin.losses.final_logits",
    "CrossEntropy": "distillens_plugin.losses.final_logits",
    "WeightedSum": "distillens_plugin.losses.weighted_sum",
}
__all__ = [
    "AttachedLens",
    "CrossEntropy",
    "DistillLensLoss",
    "LogitsKD",
    "WeightedSum",
    "choose_layers",
    "layer_matrix",
    "layer_statistics",
    "lens_batches",
    "lens_divergence",
    "monotone_pairs",
    "token_table",
]


def __getattr__(name: str) -> object:
    """Public names, imported when asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register_keys() -> None:
    # What registers may itself load torchdistill, so the modules that it imports must not do that
    # while they are imported (tests/whole/test_import.py).
    from distillens_plugin.integrations.torchdistill.registry import register

    register()


when_loaded("torchdistill", _register_keys)
