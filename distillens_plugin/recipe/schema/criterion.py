"""The recipe's criterion: torchdistill's weighted sum and its terms."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator, model_validator

from distillens_plugin.recipe.schema.base import NonNegative, Strict, complain, problem, show
from distillens_plugin.recipe.schema.layers import PairedKwargs
from distillens_plugin.recipe.schema.names import (
    CRITERION,
    LOSS_TERM,
    LOSS_WRAPPER,
    MODEL_LOSS_FUNCTION,
    NO_MODEL_LOSS,
    OWN_SUM,
)
from distillens_plugin.recipe.schema.terms import TERMS, LensKwargs
from distillens_plugin.recipe.schema.torchdistill_names import LOSS_WRAPPERS, LOW_LEVEL_LOSSES


def _without_nulls(given: dict[str, Any]) -> dict[str, Any]:
    """null takes a key out, at any depth: the losses know no such keys."""
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in given.items()
        if value is not None
    }


class TermCriterion(Strict):
    """A mid-level loss of this package or of torchdistill."""

    key: Annotated[str, LOSS_TERM.validator] = Field(
        description=f"{', '.join(TERMS)}, or a loss that torchdistill knows"
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="the loss's parameters"
    )

    @field_validator("kwargs")
    @classmethod
    def _own_kwargs(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        term = TERMS.get(info.data.get("key", ""))
        if term is None or term.parameters is None:
            return kwargs
        # The values stay as given: the loss's own defaults fill the rest.
        term.parameters.model_validate(kwargs)
        return _without_nulls(kwargs)

    @classmethod
    def inner_models(cls) -> dict[str, tuple[type[Strict], ...]]:
        return {"kwargs": tuple(t.parameters for t in TERMS.values() if t.parameters is not None)}

    def paired(self) -> PairedKwargs | None:
        """The checked parameters, if this compares layer pairs."""
        model = TERMS[self.key].parameters if self.key in TERMS else None
        if model is None or not issubclass(model, PairedKwargs):
            return None
        return model.model_validate(self.kwargs)

    @property
    def needs_teacher(self) -> bool:
        """A term of ours that compares the student with a teacher."""
        return self.key in TERMS and TERMS[self.key].needs_teacher


AUTO: Literal["auto"] = "auto"
# The weight of such a term until it is measured: the paper's.
UNMEASURED = 1.0
# What a term can be balanced against: the first of these that the sum has.
_REFERENCES = ("distillens.logits_kd", "distillens.cross_entropy")


def _weight(value: Any) -> float | Literal["auto"]:
    """A number, or `auto`; one validator, as a union would complain about each of its parts."""
    if value == AUTO:
        return AUTO
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < float("inf"):
        problem(value, f"a number of at least 0, or {AUTO}")
    return float(value)


class SubTerm(Strict):
    """One term of the weighted sum."""

    criterion: TermCriterion = Field(description="the loss: key and kwargs")
    criterion_wrapper: dict[str, Any] | None = Field(
        default=None, description="torchdistill's wrapper for its low-level losses"
    )
    weight: Annotated[float | Literal["auto"], PlainValidator(_weight)] = Field(
        default=1.0,
        description="factor of this term in the sum, of at least 0; or auto: 1 to the end of the "
        "warm-up, then as measured there, so that the term's gradient is as long as that of "
        "logits_kd (or of cross_entropy, without one) where both reach the same block",
    )

    @property
    def is_balanced(self) -> bool:
        """Whether the weight is measured: `auto`."""
        return self.weight == AUTO

    @property
    def initial_weight(self) -> float:
        """The weight as a number; 1 where it is yet to be measured."""
        return UNMEASURED if isinstance(self.weight, str) else self.weight

    @field_validator("criterion_wrapper")
    @classmethod
    def _known_wrapper(cls, wrapper: dict[str, Any] | None) -> dict[str, Any] | None:
        if wrapper:
            key = wrapper.get("key")
            if not isinstance(key, str):
                problem(key, "a wrapper such as SimpleLossWrapper", at=("key",))
            LOSS_WRAPPER.check(key, at=("key",))
        return wrapper

    @model_validator(mode="after")
    def _wrapped_where_it_must_be(self) -> "SubTerm":
        wrapper, key = self.criterion_wrapper or {}, self.criterion.key
        at = ("criterion_wrapper",)
        if wrapper and key in TERMS:
            complain(f"found a wrapper, but {key} picks its own inputs; delete it", at=at)
        if not wrapper and key in LOW_LEVEL_LOSSES:
            complain(
                f"missing; {key} compares two tensors, expected {{key: SimpleLossWrapper, kwargs: "
                f"{{input: ..., target: ...}}}} with {_SIDE} for each",
                at=at,
            )
        if wrapper.get("key") in LOSS_WRAPPERS:
            _check_sides(wrapper.get("kwargs"))
        return self


# What torchdistill's wrappers read of either side.
_SIDE_KEYS = ("is_from_teacher", "module_path", "io")
_SIDE = "{is_from_teacher: false, module_path: lm_head, io: output}"


def _check_sides(kwargs: Any) -> None:
    """Refuses a wrapper that does not say which tensors its loss compares."""
    given = kwargs if isinstance(kwargs, dict) else {}
    # A target that names no tensor is the labels.
    for side, value in {"input": None, "target": {}, **given}.items():
        names = set(value) if isinstance(value, dict) else {"io"}
        is_labels = side == "target" and not names & {"module_path", "io"}
        if side not in ("input", "target") or is_labels or names.issuperset(_SIDE_KEYS):
            continue
        found = "missing" if value is None else f"found {show(value)}"
        complain(f"{found}; expected such as {_SIDE}", at=("criterion_wrapper", "kwargs", side))


class ModelTerm(Strict):
    """Losses that the model returns itself (torchdistill's model_term)."""

    weight: NonNegative = Field(description="factor of their sum")


class CriterionKwargs(Strict):
    """Parameters of the weighted sum."""

    sub_terms: dict[str, SubTerm] = Field(description="the terms, under names of your choice")
    model_term: ModelTerm | None = Field(
        default=None, description="torchdistill's factor for losses that the model returns itself"
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
                "found no terms, expected at least one, such as ce: {criterion: {key: "
                "distillens.cross_entropy}}"
            )
        for name in terms:
            if not name or "." in name or "/" in name or ":" in name:
                complain(
                    f"found the term name {name!r}, expected a name without '.', '/' and ':'",
                    at=(name,),
                )
        return terms

    @model_validator(mode="after")
    def _has_reference(self) -> "CriterionKwargs":
        for name in self.balanced():
            if len(found := self._references()) != 1:
                complain(
                    f"found {AUTO}, but {_listed(found)} to balance it against; give one "
                    f"{_REFERENCES[0]} (or else {_REFERENCES[1]}) a weight above 0, or this term "
                    "a number",
                    at=("sub_terms", name, "weight"),
                )
        return self

    @model_validator(mode="after")
    def _has_maps_to_share(self) -> "CriterionKwargs":
        paired = {name: term.criterion.paired() for name, term in self.sub_terms.items()}
        for name, lens in paired.items():
            if not isinstance(lens, LensKwargs) or lens.projection_of is None:
                continue
            at = ("sub_terms", name, "criterion", "kwargs", "projection_of")
            owners = [n for n, p in paired.items() if n != name and p and p.draws_maps]
            if lens.projection_of not in owners:
                known = ", ".join(owners) or "none here: add a distillens.hidden_mse"
                problem(
                    lens.projection_of, f"the name of a term with a projection ({known})", at=at
                )
            owner = paired[lens.projection_of]
            if owner is not None and owner.layers != lens.layers:
                complain(
                    f"found other layers than those of {lens.projection_of}; give both terms the "
                    "same",
                    at=at,
                )
        return self

    def balanced(self) -> list[str]:
        """Names of the terms whose weight is `auto`."""
        return [name for name, term in self.sub_terms.items() if term.is_balanced]

    def reference(self) -> str:
        """Name of the term that the balanced ones are balanced against."""
        return self._references()[0]

    def _references(self) -> list[str]:
        for key in _REFERENCES:
            fixed = {n: t for n, t in self.sub_terms.items() if not t.is_balanced}.items()
            found = [n for n, t in fixed if t.criterion.key == key and t.initial_weight > 0]
            if found:
                return found
        return []


def _listed(names: list[str]) -> str:
    return f"the terms {' and '.join(names)}" if names else "no term"


class Criterion(Strict):
    """torchdistill's high-level loss."""

    key: Annotated[str, CRITERION.validator] = Field(
        default=OWN_SUM,
        description="distillens.weighted_sum (one pass over the vocabulary for all terms, each "
        "term logged) or torchdistill's WeightedSumLoss (same keys; each term computed alone)",
    )
    kwargs: CriterionKwargs = Field(description="the terms")
    func2extract_model_loss: Annotated[str, MODEL_LOSS_FUNCTION.validator] = Field(
        default=NO_MODEL_LOSS,
        description="torchdistill's function that reads losses from the model's output",
    )

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
        return [name for name, term in terms if term.criterion.needs_teacher]
