"""The lens in TRL's distillation trainers; tried with TRL 1.16."""

try:
    import trl  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise ModuleNotFoundError(
        "distillens_plugin.integrations.trl: TRL is not installed; pip install 'distillens[trl]'",
        name="trl",
    ) from None

from distillens_plugin.integrations.trl.distillation import (
    DistillLensDistillationMixin,
    DistillLensDistillationTrainer,
)
from distillens_plugin.integrations.trl.gkd import DistillLensGKDMixin

__all__ = [
    "DistillLensDistillationMixin",
    "DistillLensDistillationTrainer",
    "DistillLensGKDMixin",
]
