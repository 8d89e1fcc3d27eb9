"""What ROUGE-L cannot see: texts without a word of a-z and 0-9."""

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile("[a-z0-9]")


def has_rouge_word(text: str) -> bool:
    """Whether ROUGE-L sees a word: a run of a-z and 0-9 after lower-casing."""
    return _WORD.search(text.lower()) is not None


def num_without_words(references: Iterable[Sequence[str]]) -> int:
    """How many rows have no reference with a word: every answer to them scores 0."""
    return sum(not any(map(has_rouge_word, texts)) for texts in references)


def without_words_note(num_references: int, num_rows: int) -> str | None:
    """A note for the reader; None if every row has a reference with a word.

    Args:
        num_references: rows without one, from `num_without_words`.
        num_rows: all rows.
    """
    if num_references == 0:
        return None
    rest = "it says nothing here" if num_references == num_rows else "it says nothing about these"
    return (
        f"rougeL: {num_references} of {num_rows} rows have no reference with a word that ROUGE-L "
        f"sees (a-z and 0-9 only), so every answer to them scores 0; {rest}, see exact_match"
    )
