"""DistillLens for torchdistill: align intermediate next-token distributions while distilling.

`dependencies: [{name: distillens_plugin}]` in a torchdistill recipe imports this package, which
registers its losses; our own commands do it when they start. Without torchdistill the fused lens
still imports, for people on other trainers: `from distillens_plugin import lens_divergence`.
"""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from eval_harness.shared.program.early import end_at_once, is_program

if TYPE_CHECKING:
    from distillens_plugin.fused import lens_divergence
    from distillens_plugin.losses.lens import CrossEntropy, DistillLensLoss, LogitsKD
    from distillens_plugin.losses.weighted_sum import WeightedSum

__version__ = "0.1.0"

_HOMES = {
    "lens_divergence": "distillens_plugin.fused",
    "DistillLensLoss": "distillens_plugin.losses.lens",
    "LogitsKD": "distillens_plugin.losses.lens",
    "CrossEntropy": "distillens_plugin.losses.lens",
    "WeightedSum": "distillens_plugin.losses.weighted_sum",
}
__all__ = ["CrossEntropy", "DistillLensLoss", "LogitsKD", "WeightedSum", "lens_divergence"]


def __getattr__(name: str) -> Any:
    """Public names, imported when asked for."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register_keys() -> None:
    """Registers this package's keys with torchdistill, where that is installed."""
    if find_spec("torchdistill") is not None:
        from distillens_plugin.integrations.torchdistill.registry import register

        register()


def _is_our_command() -> bool:
    """Whether this import only leads to one of our own commands.

    They register once they can handle a signal: what registering imports takes seconds.
    """
    if sys.argv[:1] == ["-m"]:  # what it is until the module to be run has been found
        ours = ("distillens_plugin.run", "distillens_plugin.cli")
        return any(argument.removeprefix("-m") in ours for argument in sys.orig_argv)
    return is_program("distillens")


if _is_our_command():
    end_at_once("distillens")
else:
    register_keys()
