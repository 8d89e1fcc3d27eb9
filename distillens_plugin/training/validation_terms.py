"""The loss terms that compare with the teacher, on validation rows: `val/kd`, `val/lens/1-2`.

The student's forward pass is the one that the validation loss needs anyway. What is added is one
forward pass of the teacher, and the terms' walk over the vocabulary without gradients.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillens_plugin.data.supervision import Targets
from distillens_plugin.lens.output import LensOutput
from distillens_plugin.losses.box import Box
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import WeightedTerm, evaluate, terms_of

if TYPE_CHECKING:
    from distillens_plugin.experiment.experiment import Experiment

PREFIX = "val/"


@dataclass(frozen=True)
class TeacherTerms:
    """Terms of a box to be evaluated beside the validation loss.

    Attributes:
        terms: by their names in the recipe.
        chunk_rows: rows of the vocabulary walk at a time; None chooses.
    """

    box: Box
    terms: dict[str, WeightedTerm]
    chunk_rows: int | None = None

    def sums(
        self, batch: dict[str, Tensor], targets: Targets, student: LensOutput
    ) -> dict[str, float]:
        """Each term's value by name, and `term/1-2` by layer pair, summed over supervised tokens.

        Args:
            targets: of the batch; its own count of supervised tokens is not used.
            student: what the student's forward pass on this batch has just returned.
        """
        # Not at the top: loading torchdistill registers this package.
        from torchdistill.core.util import extract_io_dict

        box, summed = self.box, {**targets, "num_supervised": 1.0}
        _, teacher_io = box.get_teacher_output(batch, summed, None)
        student_io = extract_io_dict(box.student_io_dict, batch["input_ids"].device)
        student_io["."]["output"] = student
        with torch.no_grad():
            result = evaluate(
                self.terms, Reading(student_io, teacher_io, summed), chunk_rows=self.chunk_rows
            )
        named: dict[str, Tensor] = {}
        for name, weighted in self.terms.items():
            named |= weighted.term.named_values(name)
        named |= result.values
        values = torch.stack([value.float() for value in named.values()]).tolist()
        return dict(zip(named, values, strict=True))


def teacher_terms(experiment: "Experiment") -> TeacherTerms | None:
    """What a run evaluates on its validation rows; None if it has nothing to.

    A teacher behind a cache is not asked: the cache has the states of training rows alone, and a
    run should report the same whether or not it found the cache full.
    """
    recipe, box = experiment.recipe, experiment.box
    if not recipe.validates_terms or experiment.validation is None:
        return None
    found = {
        name: weighted
        for name, weighted in terms_of(box.criterion).items()
        # The validation loss runs the student without its head: no term finds logits there.
        if weighted.term.needs_teacher and not weighted.term.needs.activations
    }
    chunk_rows = getattr(box.criterion, "chunk_rows", None)
    return TeacherTerms(box, found, chunk_rows) if found else None
