"""The final number of a worked answer, and whether it is the right one."""

import re
from collections.abc import Sequence
from fractions import Fraction

from eval_harness.shared.text.number_phrases import Phrase, Reading, number_phrases
from eval_harness.shared.text.plain_numbers import plain_numbers

_MARK = "####"
_BEFORE_ANSWER = re.compile(r"[^\w.#-]*")
# "#### 1. First step" is a heading with a number of its own.
_HEADING = re.compile(r"[.)]\s+\w")
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|[{}]")


def final_answer(text: str) -> Fraction | None:
    """The number that `read_answer` finds; None if it finds none, or what is not one number."""
    reading = read_answer(text)
    return reading if isinstance(reading, Fraction) else None


def read_answer(text: str) -> Reading | None:
    r"""The answer after the first `####`, else in the last `\boxed{}`, else the last number.

    Numbers are read as people write them, exactly: $1,234.50, 1 1/2, \frac{3}{4}, 1.5e3, 50 %.
    A percent sign, a currency and a unit do not change the value. What is not one number stays
    whole: a range, a list, a calculation without a result, and "3,4", which may be 3.4 or two
    numbers. In "9 * 2 = 18" the result counts.

    First choice is the first mark directly followed by a number, then the first mark with a number
    anywhere after it, then a box, then the last number of the text.

    Returns:
        None if there is no number at all.
    """
    plain = plain_numbers(text)
    _, *marked = plain.split(_MARK)
    parts = [(part, number_phrases(part)) for part in marked]
    for part, phrases in parts:
        if phrases and _is_direct(part, phrases[0]):
            return phrases[0].reading
    for _, phrases in parts:
        if phrases:
            return phrases[0].reading
    for box in reversed(_boxes(text)):
        if phrases := number_phrases(plain_numbers(box)):
            return phrases[0].reading
    phrases = number_phrases(plain)
    return phrases[-1].reading if phrases else None


def final_answer_score(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the final number equals that of a reference, else 0.0.

    What is not one number is right only if a reference says the same: 5-7 and "between 5 and 7".

    Source: Cobbe et al. 2021, arXiv 2110.14168 (gsm8k). The first mark is lm-eval's strict-match,
    the fallback to the last number its flexible-extract.
    """
    answer = read_answer(prediction)
    return float(answer is not None and answer in [read_answer(text) for text in references])


def is_unreadable(prediction: str, references: Sequence[str]) -> bool:
    """Whether an answer has no final number, or none that is clear, and so cannot be right."""
    return final_answer(prediction) is None and not final_answer_score(prediction, references)


def _is_direct(part: str, phrase: Phrase) -> bool:
    before = _BEFORE_ANSWER.fullmatch(part, 0, phrase.start)
    return before is not None and not _HEADING.match(part, phrase.end)


def _boxes(text: str) -> list[str]:
    r"""The contents of each `\boxed{}`, to its closing brace, or for the last to the text's end."""
    boxes: list[tuple[int, str]] = []
    # Where each open brace's content begins, and whether it is a box's.
    opened: list[tuple[int, bool]] = []
    for found in _BOX_OR_BRACE.finditer(text):
        if found[0] != "}":
            opened.append((found.end(), len(found[0]) > 1))
        elif opened:
            start, is_box = opened.pop()
            if is_box:
                boxes.append((start, text[start : found.start()]))
    cut_off = [start for start, is_box in opened if is_box]
    boxes += [(start, text[start:]) for start in cut_off[-1:]]
    return [content for _, content in sorted(boxes)]
