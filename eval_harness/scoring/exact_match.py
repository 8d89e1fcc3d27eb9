"""Exact match of answers after the normalisation of the MiniLLM protocol."""

import functools
import string
from collections.abc import Iterable, Sequence

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


# The answers of all seeds to a row come one after the other, with the same references.
@functools.lru_cache(maxsize=64)
def normalize_answer(text: str) -> str:
    """Lower-cased, without ASCII punctuation, runs of white space as single spaces."""
    return " ".join(text.lower().translate(_DROP_PUNCTUATION).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals one of its references after `normalize_answer`, else 0.0.

    A reference of punctuation alone equals every answer without a word; see
    `blank_references_note`.
    Source: `normalize_answer` of the SQuAD scorer, which MiniLLM's `rouge_metric.py` uses.
    """
    answer = normalize_answer(prediction)
    return float(any(answer == normalize_answer(reference) for reference in references))


def blank_references_note(references: Iterable[Sequence[str]]) -> str | None:
    """A note for the reader; None if every reference keeps something after `normalize_answer`.

    Args:
        references: of N rows.
    """
    blank = [any(not normalize_answer(text) for text in texts) for texts in references]
    if not any(blank):
        return None
    return (
        f"exact_match: {sum(blank)} of {len(blank)} rows have a reference of punctuation alone, "
        "and there an empty answer or other punctuation is right too"
    )
