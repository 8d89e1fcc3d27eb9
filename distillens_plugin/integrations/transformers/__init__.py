"""The lens in transformers' Trainer and its subclasses."""

from distillens_plugin.integrations.transformers.arguments import DistillLensArguments
from distillens_plugin.integrations.transformers.mixin import DistillLensMixin
from distillens_plugin.integrations.transformers.trainer import DistillLensTrainer

__all__ = ["DistillLensArguments", "DistillLensMixin", "DistillLensTrainer"]
