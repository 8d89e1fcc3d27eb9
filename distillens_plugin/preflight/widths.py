"""Whether a term without maps compares states of one width, as far as configs tell."""

from collections.abc import Sequence

from distillens_plugin.lens.config_facts import ModelFacts
from distillens_plugin.lens.layers import Layer
from eval_harness.errors import DistillensError


def check_widths(
    models: Sequence[ModelFacts | None], pairs: Sequence[tuple[Layer, Layer]], where: str
) -> None:
    """Refuses states of two widths without a map; a module path's width is not known here."""
    widths = [model.width for model in models if model is not None]
    if len(set(widths)) > 1 and any(isinstance(a, int) and isinstance(b, int) for a, b in pairs):
        raise DistillensError(
            f"{where}: found none, but the student has width {widths[0]} and the teacher "
            f"{widths[1]}; set per_pair or shared"
        )
