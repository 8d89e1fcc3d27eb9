"""Parameters of terms that compare two distributions, with those of each divergence."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, create_model, model_validator

from distillens_plugin.divergences.table import (
    DIVERGENCES,
    divergence_entry,
    divergence_names,
    readers,
)
from distillens_plugin.recipe.schema.base import (
    Count,
    Positive,
    Strict,
    complain,
    did_you_mean,
    problem,
)


def _known_divergence(name: str) -> str:
    known = divergence_names(aliases=True)
    if name not in known:
        problem(name, f"one of {', '.join(known)}", did_you_mean(name, known))
    return name


DivergenceName = Annotated[str, AfterValidator(_known_divergence)]
NAMES = f"one of {', '.join(divergence_names(aliases=True))}"


def _parameter_fields() -> dict[str, Any]:
    """A key for each parameter that the divergences of this package read."""
    fields: dict[str, Any] = {}
    for name in DIVERGENCES:
        for parameter, known in divergence_entry(name).parameters.items():
            kind = list[float] if isinstance(known.default, tuple) else float
            text = f"of {', '.join(readers(parameter))}: see Divergences"
            fields[parameter] = (kind | None, Field(default=None, description=text))
    return fields


if TYPE_CHECKING:
    _Parameters = Strict
else:
    _Parameters = create_model("_Parameters", __base__=Strict, **_parameter_fields())
_PARAMETERS = tuple(_parameter_fields())


class DivergenceKwargs(_Parameters):
    """Parameters of all terms that compare two distributions, including the divergence's own."""

    divergence: DivergenceName = Field(description=NAMES)
    temperature: Positive = Field(default=1.0, description="divides both models' logits")
    scale_by_temperature_squared: bool = Field(
        default=False, description="multiply by temperature ** 2; the paper does not"
    )
    chunk_rows: Count | None = Field(
        default=None,
        description="rows at a time in the pass over the vocabulary, in which the least of its "
        "terms' counts; null chooses by vocabulary and device",
    )

    @classmethod
    def known_keys(cls) -> Collection[str]:
        registered = (
            key for name in divergence_names() for key in divergence_entry(name).parameters
        )
        return list(dict.fromkeys([*cls.model_fields, *registered]))

    @model_validator(mode="before")
    @classmethod
    def _registered_parameters(cls, data: Any) -> Any:
        """Checks parameters that only registered divergences read, which are not fields."""
        if not isinstance(data, dict):
            return data
        theirs = {key: data[key] for key in data if key in set(cls.known_keys())}
        theirs = {key: value for key, value in theirs.items() if key not in cls.model_fields}
        divergence = data.get("divergence") or cls.model_fields["divergence"].default
        if divergence in divergence_names(aliases=True):
            _check_parameters(divergence, theirs)
        return {key: value for key, value in data.items() if key not in theirs}

    @model_validator(mode="after")
    def _own_parameters(self) -> "DivergenceKwargs":
        _check_parameters(self.divergence, {key: getattr(self, key) for key in _PARAMETERS})
        return self


def _check_parameters(divergence: str, parameters: Mapping[str, object]) -> None:
    """Refuses a parameter that this divergence does not read, or one out of its range."""
    entry = divergence_entry(divergence)
    given = {key: value for key, value in parameters.items() if value is not None}
    for key, value in given.items():
        known = entry.parameters.get(key)
        if known is None:
            complain(
                f"{divergence} does not read this key (it is for {', '.join(readers(key))}); "
                "delete it, or set it to null",
                at=(key,),
            )
        if not known.accepts(value):
            problem(value, known.expected, at=(key,))
    if entry.check is not None and given:
        defaults = {key: known.default for key, known in entry.parameters.items()}
        try:
            entry.check(**{**defaults, **given})
        except ValueError as error:
            complain(str(error), at=(next(iter(given)),))
