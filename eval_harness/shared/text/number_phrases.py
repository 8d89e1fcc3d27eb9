"""Numbers that belong together: ranges, lists and calculations are not one number."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from eval_harness.shared.text.written_numbers import Number, written_numbers

_UNIT = r"(?:[ ]?(?:[%$€£¥₹]|°[CF]?)|[ ]?[A-Za-z]{1,20}(?:\^[23])?)?"
_SIGN_OF_UNIT = r"(?:[ ]?(?:[%$€£¥₹]|°[CF]?))?"
# kind -> what may stand between two numbers. The first that fits counts.
_BETWEEN = {
    "equals": re.compile(rf"{_UNIT}[ )\]]*[=≈][ (\[]*"),
    "range": re.compile(
        rf"{_SIGN_OF_UNIT}(?:[ ]*(?:-|—|~|\.{{2,3}}|…)[ ]*|[ ]+(?:up to|to|through|thru)[ ]+)"
    ),
    "list": re.compile(rf"{_SIGN_OF_UNIT}(?:[ ]*[,;、][ ]*(?:and[ ]+)?|[ ]+(?:and|&)[ ]+)"),
    "or": re.compile(rf"{_SIGN_OF_UNIT},?[ ]+or[ ]+"),
    "ratio": re.compile(r":|[ ]+out of[ ]+"),
    "calculation": re.compile(rf"|{_UNIT}[ )\]]*(?:[-+*×·÷^±/√]|mod)[ ]*[(\[]*"),
}
_BETWEEN_UNITS = re.compile(
    r"[ ]?(?P<unit>[A-Za-z]+)(?:[ ]*[-—~][ ]*|[ ]+(?:to|through|(?P<and>and|or))[ ]+)"
)
_BEFORE_RANGE = re.compile(r"\bbetween(?: the numbers)?[ ]+$", re.IGNORECASE)
_UNIT_BEHIND = re.compile(r"[ ]?([A-Za-z]+)")
_SPACED = re.compile(r"\d{1,3}")


@dataclass(frozen=True)
class Unclear:
    """What is not one number; equal to another one that says the same.

    Attributes:
        parts: values and, between them, kinds: (5, "range", 7).
    """

    parts: tuple[Fraction | str, ...]


# One number, or what cannot be read as one.
Reading = Fraction | Unclear


@dataclass(frozen=True)
class Phrase:
    """A number, or several that belong together.

    Attributes:
        start, end: where it stands.
    """

    start: int
    end: int
    reading: Reading


def number_phrases(text: str) -> list[Phrase]:
    """All numbers of a text, in order, those that belong together as one.

    Args:
        text: from `plain_numbers`.
    """
    phrases: list[Phrase] = []
    numbers: list[Number] = []
    kinds: list[str] = []
    for number in written_numbers(text):
        kind = _kind(text, numbers[-1], number, kinds) if numbers else None
        if numbers and kind is None:
            phrases.append(_phrase(text, numbers, kinds))
            numbers, kinds = [], []
        elif kind is not None:
            kinds.append(kind)
        numbers.append(number)
    if numbers:
        phrases.append(_phrase(text, numbers, kinds))
    return phrases


def _kind(text: str, first: Number, second: Number, kinds: Sequence[str]) -> str | None:
    """How two neighbours belong together; None if they do not."""
    between = text[first.end : second.start]
    if len(between) > 60:
        return None
    kind = _kind_with_units(text, first, second)
    if kind is not None:
        return kind
    for kind, pattern in _BETWEEN.items():
        if pattern.fullmatch(between):
            return "range" if kind == "list" and _opens_range(text, first) else kind
    if between.isspace() and "\n" not in between and second.is_signed:
        return "calculation"
    return "space" if between == " " and _is_group(text, first, second, kinds) else None


def _kind_with_units(text: str, first: Number, second: Number) -> str | None:
    """The kind of "5 cm to 7 cm": the same unit twice, or once behind "between"."""
    found = _BETWEEN_UNITS.fullmatch(text, first.end, second.start)
    if found is None:
        return None
    if found["and"] and _opens_range(text, first):
        return "range"
    behind = _UNIT_BEHIND.match(text, second.end)
    if behind is None or behind[1] != found["unit"]:
        return None
    return {"and": "list", "or": "or"}.get(found["and"] or "", "range")


def _opens_range(text: str, first: Number) -> bool:
    """Whether "between" stands before the number."""
    return _BEFORE_RANGE.search(text[max(0, first.start - 25) : first.start]) is not None


def _is_group(text: str, first: Number, second: Number, kinds: Sequence[str]) -> bool:
    """Whether "12 345" may be one number whose thousands are apart."""
    left, right = text[first.start : first.end], text[second.start : second.end]
    is_first = not kinds and _SPACED.fullmatch(left.lstrip("-+$€£¥₹")) is not None
    goes_on = bool(kinds) and kinds[-1] == "space" and len(left) == 3
    return (is_first or goes_on) and re.fullmatch(r"\d{3}(?:\.\d+)?", right) is not None


def _phrase(text: str, numbers: Sequence[Number], kinds: Sequence[str]) -> Phrase:
    """A chain of equations says what its last side that is one number says."""
    sides: list[list[Fraction | str]] = [[numbers[0].value]]
    for kind, number in zip(kinds, numbers[1:], strict=True):
        if kind == "equals" or (kind == "or" and _says_again(text, sides[-1], number)):
            sides.append([number.value])
        else:
            sides[-1] += [kind, number.value]
    clear = [side[0] for side in sides if len(side) == 1 and isinstance(side[0], Fraction)]
    reading = clear[-1] if clear else Unclear(tuple(sides[-1]))
    return Phrase(numbers[0].start, numbers[-1].end, reading)


def _says_again(text: str, before: Sequence[Fraction | str], number: Number) -> bool:
    """Whether "or" means the same in other words: 30 + 160 or 190, 0.6 or 60%."""
    if len(before) > 1:
        return "calculation" in before
    value = before[0]
    if isinstance(value, Fraction) and text.startswith(("%", " %"), number.end):
        return number.value in (value, 100 * value)
    return number.value == value
