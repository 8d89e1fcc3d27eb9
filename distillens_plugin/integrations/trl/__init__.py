"""The lens in TRL's distillation trainers; tried with TRL 1.16."""

from importlib.util import find_spec

if find_spec("trl") is None:
    raise ImportError(
        "distillens_plugin.integrations.trl: TRL is not installed; pip install 'distillens[trl]'",
        name="trl",
    )

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
