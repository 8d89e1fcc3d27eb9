"""From generated text to the answer that is scored, and the final number of a worked answer."""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"-?\$?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def cut_answer(text: str) -> str:
    """The text up to a literal `<|endoftext|>`, `<n>` turned into newlines, stripped.

    Args:
        text: decoded without special tokens, up to the end token.
    Source: MiniLLM's evaluation, whose data writes a newline as `<n>`.
    """
    return text.split("<|endoftext|>", 1)[0].replace("<n>", "\n").strip()


def final_answer(text: str) -> Decimal | None:
    """The number after the last `####`, else the last number; None where there is none.

    A dollar sign and thousands commas are ignored: "$1,234.50" is 1234.5.
    """
    marked = text.rpartition("####")
    numbers = _NUMBER.findall(marked[2]) if marked[1] else []
    found = numbers[0] if numbers else next(reversed(_NUMBER.findall(text)), None)
    if found is None:
        return None
    try:
        return Decimal(found.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None


def final_answer_score(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the final number equals that of a reference, else 0.0.

    Source: Cobbe et al. 2021, arXiv 2110.14168 (gsm8k); the fallback to the last number is
    lm-eval's flexible-extract.
    """
    answer = final_answer(prediction)
    return float(answer is not None and answer in [final_answer(text) for text in references])
