"""Exact match of answers after the normalisation of the MiniLLM protocol."""

import functools
import string
from collections.abc import Sequence

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


# The answers of all seeds to a row come one after the other, with the same references.
@functools.lru_cache(maxsize=64)
def normalize_answer(text: str) -> str:
    """Lower-cased, without ASCII punctuation, runs of white space as single spaces."""
    return " ".join(text.lower().translate(_DROP_PUNCTUATION).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals one of its references after `normalize_answer`, else 0.0.

    Source: `normalize_answer` of the SQuAD scorer, which MiniLLM's `rouge_metric.py` uses.
    """
    answer = normalize_answer(prediction)
    return float(any(answer == normalize_answer(reference) for reference in references))
