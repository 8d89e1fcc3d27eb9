"""What every part of the recipe schema shares: strict models, ranges, and one-line complaints."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from distillens_plugin.tables.ranges import Range
from eval_harness.errors import DistillensError
from eval_harness.shared.files.strict_yaml import KeyPath
from eval_harness.shared.near import did_you_mean

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def problem(found: object, expected: str, todo: str = "", *, at: KeyPath = ()) -> NoReturn:
    """Refuses a value from inside a validator.

    Args:
        at: keys below the value that the validator was given, to the one at fault.
    """
    complain(f"found {show(found)}, expected {expected}" + (f"; {todo}" if todo else ""), at=at)


def complain(text: str, *, at: KeyPath = ()) -> NoReturn:
    """Refuses a value in its own words, for keys that are missing or in conflict."""
    raise PydanticCustomError("distillens", "{text}", {"text": text, "at": at})


def show(value: object) -> str:
    """A value as errors show it: short, and as in a recipe."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        some = ", ".join(repr(key)[1:-1] if isinstance(key, str) else str(key) for key in value)
        return "a mapping" + (f" with the keys {some}"[:70] if value else "")
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Within:
    """Refuses a number outside a range; `str` of it names the range in the documentation."""

    range: Range

    def __str__(self) -> str:
        return str(self.range)

    def __call__(self, value: float) -> float:
        if value not in self.range:
            kind = "a whole number" if isinstance(value, int) else "a number"
            problem(value, f"{kind} {self.range}")
        return value


def within(
    low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> AfterValidator:
    """For a field's type: Annotated[float, within(0, 1)]."""
    return AfterValidator(Within(Range(low, high, open_low, open_high)))


@dataclass(frozen=True)
class PathKey:
    """Marks a key as a path: ./ and ../ in it start at the folder of the file with the key.

    Attributes:
        always: any other relative path starts there, too.
    """

    always: bool = False


# A file or a folder here, or a name elsewhere (on the Hub): only ./, ../ and ~/ are resolved.
PathName = Annotated[str, PathKey()]
Count = Annotated[int, within(1)]
NonNegativeInt = Annotated[int, within(0)]
# The range of numpy's seeds, as accelerate seeds numpy too.
Seed = Annotated[int, within(0, 2**32 - 1)]
# Processes and threads: an extra zero must not bring a machine down.
FewOrNone = Annotated[int, within(0, 1024)]
Few = Annotated[int, within(1, 1024)]
Positive = Annotated[float, within(0, open_low=True)]
NonNegative = Annotated[float, within(0)]
Fraction = Annotated[float, within(0, 1)]
Share = Annotated[float, within(0, 1, open_low=True)]
BelowOne = Annotated[float, within(0, 1, open_high=True)]


class Strict(BaseModel):
    """Refuses unknown keys, with a hint at a similar one, and converts no type into another.

    A key given as null counts as not given, so that `--set train.num_epochs=null` removes it.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        for key in data:
            if key not in fields:
                known = cls.known_keys()
                hint = did_you_mean(str(key), known) or "delete it"
                complain(f"unknown key; {hint} (keys here: {', '.join(known)})", at=(key,))
        data = {key: value for key, value in data.items() if value is not None}
        for key, field in fields.items():
            if field.is_required() and key not in data:
                complain(f"missing; expected {_describe(field)}", at=(key,))
        return data

    @classmethod
    def known_keys(cls) -> Collection[str]:
        """The keys that can be given here."""
        return cls.model_fields

    @classmethod
    def inner_models(cls) -> dict[str, tuple[type["Strict"], ...]]:
        """The sections that check the entries of a field that is a plain mapping to pydantic."""
        return {}


def _describe(field: FieldInfo) -> str:
    return (field.description or "a value").rstrip(".")


Model = TypeVar("Model", bound="Strict")


def checked(model: type[Model], data: object, where: Callable[[KeyPath], str]) -> Model:
    """A section from plain data.

    Args:
        where: what errors about a key begin with.
    Raises:
        DistillensError: the first mistake, in one line with what was found and expected.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        loc, text = first_problem(error)
        raise DistillensError(f"{where(loc)}: {text}") from None


def first_problem(error: ValidationError) -> tuple[KeyPath, str]:
    """The mistake to report first: its path, and one line that says what to do."""
    errors = error.errors(include_url=False)
    loc, text = _translate(errors[0])
    if len(errors) > 1:
        more = len(errors) - 1
        text += f" (and {more} more {'mistake' if more == 1 else 'mistakes'})"
    return loc, text


def _translate(error: ErrorDetails) -> tuple[KeyPath, str]:
    loc: KeyPath = tuple(error["loc"])
    kind, value = error["type"], error.get("input")
    context = error.get("ctx") or {}
    if kind == "distillens":
        return (*loc, *context["at"]), context["text"]
    if kind == "literal_error":
        words = [
            word.strip("'\" ") for word in context["expected"].replace(" or ", ", ").split(",")
        ]
        text = f"found {show(value)}, expected one of {', '.join(words)}"
        hint = did_you_mean(str(value), words)
        return loc, f"{text}; {hint}" if hint else text
    if kind not in _EXPECTED:
        return loc, f"found {show(value)}: {error['msg']}"
    return loc, f"found {show(value)}, expected {_EXPECTED[kind]}" + _hint(kind, value)


def _hint(kind: str, value: object) -> str:
    if not isinstance(value, str):
        return ""
    if kind in ("float_type", "int_type"):
        try:
            float(value)
        except ValueError:
            return ""
        return "; remove the quotes"
    if kind == "bool_type" and value.lower() in ("yes", "on", "no", "off", "y", "n"):
        return f"; write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}"
    return ""
