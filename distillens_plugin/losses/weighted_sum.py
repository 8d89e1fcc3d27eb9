"""`distillens.weighted_sum`: torchdistill's WeightedSumLoss with one walk over the vocabulary.

Takes the same YAML. The terms of this package give their groups of rows, which share one walk,
one student product per group of rows and one gradient of the unembedding; any other mid-level loss
is called as torchdistill would. Each term's value is kept for the log.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.lens.output import IoDict
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import evaluate, terms_of


class WeightedSum(nn.Module):
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
        # Not at the top: loading torchdistill registers this class (distillens_plugin/__init__.py).
        from torchdistill.losses.high_level import AbstractLoss

        super().__init__()
        self.term_dict: dict[str, tuple[nn.Module, float]] = AbstractLoss(sub_terms).term_dict
        self.model_factor = (model_term or {}).get("weight")
        self.chunk_rows = chunk_rows
        self.last_terms: dict[str, Tensor] = {}

    def forward(
        self,
        io_dict: Mapping[str, IoDict],
        model_loss_dict: Mapping[str, Tensor],
        targets: object,
    ) -> Tensor:
        reading = Reading(io_dict["student"], io_dict["teacher"], targets)
        result = evaluate(terms_of(self), reading, chunk_rows=self.chunk_rows)
        self.last_terms = result.values
        total = result.loss + self._model_loss(model_loss_dict) * reading.share_of_window
        return torch.as_tensor(total)

    def _model_loss(self, losses: Mapping[str, Tensor]) -> Tensor | float:
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


def named_values(criterion: object) -> dict[str, Tensor]:
    """Every loss term by its name in the recipe, and each layer pair as `term/a-b`; 0-d, detached.

    Under torchdistill's WeightedSumLoss someone else's loss has no value here, as nothing keeps it.
    """
    named: dict[str, Tensor] = {}
    for name, weighted in terms_of(criterion).items():
        named |= weighted.term.named_values(name)
    return named | getattr(criterion, "last_terms", {})
