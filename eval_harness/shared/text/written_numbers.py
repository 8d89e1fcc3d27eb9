"""Single numbers in a text, each with its exact value, if it can only mean one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

# Numbers of more digits are compared as they are written: their powers would fill the memory.
_MOST_DIGITS = 400

_LETTER = "A-Za-zÀ-ÖØ-öø-ɏͰ-ӿ"
_CURRENCY = "$€£¥₹₩₽₺₫₪฿¢"
_CURRENCY_CODE = re.compile(r"(?<![A-Za-z])(?:USD|EUR|GBP|INR|CHF|AUD|CAD|RMB|Rs|Rp|RM|kr)$")
_RUN = r"(?:\d(?:[\d.,']*\d)?|(?<![\w.])\.\d+)"
_NUMBER = re.compile(
    # A minus after a letter, a digit or a bracket subtracts.
    rf"(?P<sign>(?<![{_LETTER}\d_.)\]%°{_CURRENCY}])[-+])?"
    rf"(?:(?<!\d)[{_CURRENCY}][ ]?(?P<inner_sign>-)?|[{_CURRENCY}])?"
    rf"(?:(?P<whole>{_RUN})[ ]+(?:and[ ]+)?(?P<part>\d{{1,9}})[ ]?/[ ]?(?P<of>\d{{1,9}})"
    r"(?![\d.,]*\d|[ ]?/[ ]?\d)"
    rf"|(?P<top>{_RUN})[ ]?/[ ]?(?P<bottom>{_RUN})(?![ ]?/[ ]?\d)"
    # "2:00 pm" is two o'clock.
    rf"|(?P<hour>(?<!:)\d{{1,2}}):00(?![\d:])|(?P<run>{_RUN})"
    rf"(?:[eE](?P<e>[-+]?\d+)"
    r"|[ ]*[×·*][ ]*10[ ]?\^[ ]?(?P<power>[-+]?\d+)"
    r"|(?<=(?<![\d.,'])10)[ ]?\^[ ]?(?P<of_ten>[-+]?\d+))?)"
)
# 1,234,567.89 and 12,34,567.89 (as India groups), 1'234.5, 1.234.567,8 and 1.234,5.
_GROUPED = re.compile(
    r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}|[1-9]\d{0,2}(?:'\d{3})+)(?:\.\d+)?"
)
_EUROPEAN = re.compile(r"[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})")
_PLAIN = re.compile(r"\d+(?:\.\d+)?|\.\d+")
# Before a number: what makes it part of a name (H2O, x_1) or of a calculation with unknowns.
_NAME = re.compile(rf"(?:[{_LETTER}]|\w_|[^\d\s]\s*\^)$")
_OPERATION_BEFORE = re.compile(r"\S*[ ]*[√/×·÷±][ ]*\(*[ ]*$")
_OPERATION_BEHIND = re.compile(r"[ ]*(?:[√π^]|±[ ]*)\S*")


@dataclass(frozen=True)
class Number:
    """One number, or what looks like one.

    Attributes:
        start, end: where it stands.
        value: exact; a text if it can be read in two ways ("3,4"), or is part of a calculation.
        is_signed: whether it begins with + or -.
    """

    start: int
    end: int
    value: Fraction | str
    is_signed: bool = False


def written_numbers(text: str) -> Iterator[Number]:
    """The numbers of a text, in order. Digits within names and units (m^2) are none.

    Args:
        text: from `plain_numbers`.
    """
    place = 0
    while found := _NUMBER.search(text, place):
        place = found.end()
        before = text[max(0, found.start() - 12) : found.start()]
        if found["whole"] and not _is_mixed(found):
            place = found.end("whole")
            yield Number(found.start(), place, _value(found["whole"]), bool(found["sign"]))
            continue
        follows = _NAME.search(before) and text[found.start()] not in _CURRENCY
        if follows and not _CURRENCY_CODE.search(before):
            continue
        value = _value_of(found)
        before_it = _OPERATION_BEFORE.search(before)
        behind = _OPERATION_BEHIND.match(text, place, place + 40)
        if before_it or behind:
            # Words of their own, so that 2√3 is not 2√5.
            words = "".join(part[0] for part in (before_it, found, behind) if part)
            value = re.sub("[ $]", "", words).rstrip(".,;:")
        yield Number(found.start(), found.end(), value, bool(found["sign"]))


def _is_mixed(found: re.Match[str]) -> bool:
    """Whether a whole number and a proper fraction follow each other, unlike "in 12 24/2"."""
    whole = _value(found["whole"])
    if not isinstance(whole, Fraction) or whole.denominator != 1:
        return False
    return int(found["part"]) < int(found["of"])


def _value_of(found: re.Match[str]) -> Fraction | str:
    """The number's value; its text if it has none, or two."""
    value: Fraction | str = found[0]
    if found["whole"]:
        whole, part, of = (_value(found[name]) for name in ("whole", "part", "of"))
        if isinstance(whole, Fraction) and isinstance(part, Fraction) and isinstance(of, Fraction):
            value = whole + part / of
    elif found["top"]:
        top, bottom = _value(found["top"]), _value(found["bottom"])
        if isinstance(top, Fraction) and isinstance(bottom, Fraction) and bottom:
            value = top / bottom
    else:
        value = _value(found["hour"] or found["run"])
        power = found["e"] or found["power"]
        if found["of_ten"]:
            value, power = Fraction(1), found["of_ten"]
        if power and isinstance(value, Fraction):
            is_small = len(power) <= 5 and abs(int(power)) <= _MOST_DIGITS
            value = value * Fraction(10) ** int(power) if is_small else found[0]
    is_negative = found["sign"] == "-" or found["inner_sign"]
    return -value if is_negative and isinstance(value, Fraction) else value


def _value(run: str) -> Fraction | str:
    """The value of digits and their separators, or the same text if they mean no one number."""
    if len(run) > _MOST_DIGITS:
        return run
    if _PLAIN.fullmatch(run):
        return Fraction(run)
    if _GROUPED.fullmatch(run):
        return Fraction(run.replace(",", "").replace("'", ""))
    if _EUROPEAN.fullmatch(run):
        return Fraction(run.replace(".", "").replace(",", "."))
    return run
