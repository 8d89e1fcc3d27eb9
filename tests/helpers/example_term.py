"""A loss term of one's own, as CONTRIBUTING.md shows it; a recipe's `dependencies` import it."""

from torch import Tensor
from torchdistill.losses.registry import register_mid_level_loss

from distillens_plugin.losses.needs import Needs
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import Term


@register_mid_level_loss(key="example.norm_gap")
class NormGap(Term):
    """How far the lengths of both models' final states differ, squared."""

    needs = Needs(final_states=True)

    def value(self, reading: Reading) -> Tensor:
        student_ND, teacher_ND = reading.final_states()
        return (student_ND.norm(dim=-1) - teacher_ND.norm(dim=-1)).square().mean()
