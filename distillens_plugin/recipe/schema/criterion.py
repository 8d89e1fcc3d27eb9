"""The recipe's criterion: torchdistill's weighted sum and its terms."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator

from distillens_plugin.recipe.schema.base import NonNegative, Strict, complain, did_you_mean, show
from distillens_plugin.recipe.schema.layers import PairedKwargs
from distillens_plugin.recipe.schema.terms import OWN_TERMS, TEACHER_TERMS, LensKwargs

OWN_SUM = "distillens.weighted_sum"
_SUMS = ("WeightedSumLoss", OWN_SUM)


def check_own_key(key: str, own: tuple[str, ...], what: str) -> None:
    """Refuses a key that means one of ours and misses it; others may be torchdistill's."""
    if key in own:
        return
    hint = did_you_mean(key, own)
    if key.startswith("distillens.") or hint:
        complain(f"found {show(key)}, which is no {what}; {hint or 'expected ' + ', '.join(own)}")


class TermCriterion(Strict):
    """A mid-level loss of this package or of torchdistill."""

    key: str = Field(description=f"{', '.join(OWN_TERMS)}, or a loss that torchdistill knows")
    kwargs: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="the loss's parameters"
    )

    @field_validator("key")
    @classmethod
    def _known_key(cls, key: str) -> str:
        check_own_key(key, tuple(OWN_TERMS), "loss term")
        return key

    @field_validator("kwargs")
    @classmethod
    def _own_kwargs(cls, kwargs: dict[str, Any], info: Any) -> dict[str, Any]:
        model = OWN_TERMS.get(info.data.get("key", ""))
        if model is not None:
            # The values stay as given: the loss's own defaults fill the rest.
            model.model_validate(kwargs)
            return {key: value for key, value in kwargs.items() if value is not None}
        return kwargs

    def paired(self) -> PairedKwargs | None:
        """The checked parameters, if this compares layer pairs."""
        model = OWN_TERMS.get(self.key)
        if model is None or not issubclass(model, PairedKwargs):
            return None
        return model.model_validate(self.kwargs)


class SubTerm(Strict):
    """One term of the weighted sum."""

    criterion: TermCriterion = Field(description="the loss: key and kwargs")
    criterion_wrapper: dict[str, Any] | None = Field(
        default=None, description="torchdistill's wrapper for its low-level losses"
    )
    weight: NonNegative = Field(default=1.0, description="factor of this term in the sum")


class CriterionKwargs(Strict):
    """Parameters of the weighted sum."""

    sub_terms: dict[str, SubTerm] = Field(description="the terms by a name of your choice")
    model_term: dict[str, Any] | None = Field(
        default=None, description="torchdistill's factor for losses that the model itself returns"
    )

    @field_validator("sub_terms", mode="before")
    @classmethod
    def _null_is_no_term(cls, terms: Any) -> Any:
        if not isinstance(terms, dict):
            return terms
        return {name: term for name, term in terms.items() if term is not None}

    @field_validator("sub_terms")
    @classmethod
    def _not_empty(cls, terms: dict[str, SubTerm]) -> dict[str, SubTerm]:
        if not terms:
            complain(
                "found no terms, expected at least one, e.g. ce: {criterion: {key: distillens."
                "cross_entropy}}"
            )
        for name in terms:
            if not name or "." in name or "/" in name or ":" in name:
                complain(
                    f"found the term name {name!r}, expected a name without '.', '/' and ':'",
                    at=(name,),
                )
        return terms


class Criterion(Strict):
    """torchdistill's high-level loss."""

    key: str = Field(
        default=OWN_SUM,
        description="WeightedSumLoss (torchdistill's; each term alone) or "
        "distillens.weighted_sum (same "
        "keys; one walk over the vocabulary, each term logged)",
    )
    kwargs: CriterionKwargs = Field(description="the terms")
    func2extract_model_loss: str = Field(
        default="distillens.no_model_loss",
        description="torchdistill's function that reads losses off the model's output",
    )

    @field_validator("key")
    @classmethod
    def _known_key(cls, key: str) -> str:
        check_own_key(key, _SUMS, "criterion")
        return key

    def layer_terms(self) -> Iterator[tuple[str, PairedKwargs]]:
        """Name and parameters of each term that compares layer pairs."""
        for name, term in self.kwargs.sub_terms.items():
            paired = term.criterion.paired()
            if paired is not None:
                yield name, paired

    def lens_terms(self) -> Iterator[tuple[str, LensKwargs]]:
        """Name and parameters of each DistillLensLoss."""
        for name, paired in self.layer_terms():
            if isinstance(paired, LensKwargs):
                yield name, paired

    def teacher_terms(self) -> list[str]:
        """Names of the terms that compare the student with a teacher."""
        terms = self.kwargs.sub_terms.items()
        return [name for name, term in terms if term.criterion.key in TEACHER_TERMS]
