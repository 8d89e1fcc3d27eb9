"""`distillens.weighted_sum`: torchdistill's WeightedSumLoss with one walk over the vocabulary.

Takes the same YAML. The terms of this package hand in their groups of rows, which share one walk,
one student product per group of rows and one gradient of the unembedding; any other mid-level loss
is called as torchdistill would. Each term's value is kept for the log.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchdistill.losses.high_level import AbstractLoss

from distillens_plugin.fused import Group
from distillens_plugin.losses.hidden import HiddenTerm
from distillens_plugin.losses.lens import IoDict, LensTerm, lens_output, walk_terms


class WeightedSum(AbstractLoss):
    """A weighted sum of loss terms, with the terms of this package computed together.

    Args:
        model_term: as in torchdistill's WeightedSumLoss.
        sub_terms: as in torchdistill's WeightedSumLoss.
        chunk_rows: rows of the vocabulary walk at a time; None chooses.

    Attributes:
        last_terms: after a forward pass, each term's unweighted value by its name in the recipe.
    """

    def __init__(
        self,
        model_term: dict[str, Any] | None = None,
        sub_terms: dict[str, Any] | None = None,
        chunk_rows: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(sub_terms=sub_terms, **kwargs)
        self.model_factor = (model_term or {}).get("weight")
        self.chunk_rows = chunk_rows
        self.last_terms: dict[str, Tensor] = {}

    def forward(
        self, io_dict: dict[str, IoDict], model_loss_dict: dict[str, Tensor], targets: Any
    ) -> Tensor:
        student_io, teacher_io = io_dict["student"], io_dict["teacher"]
        self.last_terms = {}
        total: Any = self._walk(student_io, teacher_io, targets)
        for name, (term, factor) in self.term_dict.items():
            if not isinstance(term, LensTerm):
                value = self._alone(term, student_io, teacher_io, targets)
                self.last_terms[name] = value.detach()
                total = total + factor * value
        model_loss = self._model_loss(model_loss_dict) * _share_of_window(targets)
        return total + self._anchors(student_io) + model_loss

    def _alone(self, term: Any, student_io: IoDict, teacher_io: IoDict, targets: Any) -> Tensor:
        if not isinstance(term, HiddenTerm):
            return term(student_io, teacher_io, targets) * _share_of_window(targets)
        student = lens_output(student_io, "student")
        supervised = student.supervised(targets)
        return term.value(student, student_io, teacher_io, supervised)

    def _anchors(self, student_io: IoDict) -> Tensor | float:
        """For terms that never read the final hidden states; one that does reaches every
        parameter already.
        """
        terms = [t for t, _ in self.term_dict.values() if isinstance(t, LensTerm | HiddenTerm)]
        if not terms:
            return 0.0
        student = lens_output(student_io, "student")
        anchors = [term.anchor(student) for term in terms]
        given = [anchor for anchor in anchors if anchor is not None]
        return sum(given) if len(given) == len(terms) else 0.0

    def _walk(self, student_io: IoDict, teacher_io: IoDict, targets: Any) -> Tensor | float:
        terms = {n: (t, f) for n, (t, f) in self.term_dict.items() if isinstance(t, LensTerm)}
        if not terms:
            return 0.0
        student = lens_output(student_io, "student")
        supervised = student.supervised(targets)
        groups: list[Group] = []
        owned: dict[str, list[tuple[str, float, str]]] = {}
        for name, (term, factor) in terms.items():
            owned[name] = []
            for group in term.groups(student, student_io, teacher_io, supervised):
                # Two terms of one kind would otherwise meet under one name.
                full_name = f"{name}:{group.name}"
                owned[name].append((full_name, group.weight, group.name))
                groups.append(replace(group, name=full_name, weight=group.weight * factor))
        needs_teacher = any(term.needs_teacher for term, _ in terms.values())
        teacher = lens_output(teacher_io, "teacher").lens.head() if needs_teacher else None
        result = walk_terms(groups, student, teacher, chunk_rows=self.chunk_rows)
        for name, (term, _) in terms.items():
            term.last_values = {own: result.values[full] for full, _, own in owned[name]}
            weighted = [weight * result.values[full] for full, weight, _ in owned[name]]
            self.last_terms[name] = torch.stack(weighted).sum()
        return result.loss

    def _model_loss(self, losses: dict[str, Tensor]) -> Tensor | float:
        if not self.model_factor:
            return 0.0
        if isinstance(self.model_factor, dict):
            return sum((self.model_factor[key] * value for key, value in losses.items()), 0.0)
        return self.model_factor * sum(losses.values(), 0.0)

    def __str__(self) -> str:
        terms = [f"{factor} * {name} ({term})" for name, (term, factor) in self.term_dict.items()]
        if self.model_factor:
            terms.insert(0, f"{self.model_factor} * ModelLoss")
        return "Loss = " + " + ".join(terms)


def _share_of_window(targets: Any) -> float:
    """What a loss that is a mean over its batch counts for where the runner sums over a window.

    The batch's supervised tokens over those of the window and all ranks; 1 where nothing is summed.
    """
    count = targets.get("num_supervised") if isinstance(targets, Mapping) else None
    return 1.0 if count is None else targets["positions"].numel() / count
