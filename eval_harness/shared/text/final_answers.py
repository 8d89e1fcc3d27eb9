"""The final number of a worked answer, and whether it is the right one."""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

_MARK = "####"
# A minus after a digit or a bracket subtracts. Possessive: a number is never matched in part.
_NUMBER = r"(?:(?<![\w.)])-)?(?:\$-?)?(?:\d[\d,]*+(?:\.\d++)?|\.\d++)"
_NUMBERS = re.compile(_NUMBER)
# "#### 1. First step" is a heading with a number of its own.
_MARKED = re.compile(rf"[^\w.$#-]*({_NUMBER})(?![.)]\s+\w)")
# Minus, en dash and full-width hyphen, all used as minus signs in print.
_MINUS = re.compile("[\u2212\u2013\uff0d]")
_SPACE_IN_NUMBER = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")


def final_answer(text: str) -> Decimal | None:
    """The number after the first `####`, else the last number; None if there is none.

    First choice is the first mark directly followed by a number, then the first mark with a number
    anywhere after it, then the last number of the text. Dollar and typographic minus signs,
    thousands commas and no-break spaces within a number are understood: "$1,234.50" is 1234.5.
    """
    text = _SPACE_IN_NUMBER.sub("", _MINUS.sub("-", text))
    _, *marked = text.split(_MARK)
    for part in marked:
        if found := _MARKED.match(part):
            return _decimal(found[1])
    for part in marked:
        if found := _NUMBERS.search(part):
            return _decimal(found[0])
    numbers = _NUMBERS.findall(text)
    return _decimal(numbers[-1]) if numbers else None


def final_answer_score(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the final number equals that of a reference, else 0.0.

    Source: Cobbe et al. 2021, arXiv 2110.14168 (gsm8k). The first mark is lm-eval's strict-match,
    the fallback to the last number its flexible-extract.
    """
    answer = final_answer(prediction)
    return float(answer is not None and answer in [final_answer(text) for text in references])


def _decimal(number: str) -> Decimal | None:
    try:
        return Decimal(number.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None
