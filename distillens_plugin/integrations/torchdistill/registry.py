"""The one file that registers with torchdistill: what the YAML keys of this package name.

The names and their makers are in the tables of `recipe/schema/names.py`.
"""

from collections.abc import Mapping

from torch import Tensor

from distillens_plugin.integrations.torchdistill.compat import restore_use_fp16
from distillens_plugin.recipe.schema.names import KINDS
from distillens_plugin.tables.makers import resolve


def no_model_loss(
    student_outputs: object, targets: object, **kwargs: object
) -> Mapping[str, Tensor]:
    """`func2extract_model_loss: distillens.no_model_loss`: the models compute no loss."""
    return {}


def register() -> None:
    """Registers every key of this package; calling it again changes nothing."""
    restore_use_fp16()
    for kind in KINDS:
        for key, own in kind.own.items():
            resolve(kind.register)(key=key)(resolve(own.maker))
