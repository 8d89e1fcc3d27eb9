"""What ROUGE-L cannot see: texts without a word, by the words of each of its tokenizers."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval_harness.scoring.unicode_words import has_unicode_word

_WORD = re.compile("[a-z0-9]")


@dataclass(frozen=True)
class Sight:
    """What a metric sees.

    Attributes:
        has_word: whether it sees a word in a text.
        kind: of words, in the names of counts: "num_references_without_<kind>".
        words: what they are made of, for people.
    """

    has_word: Callable[[str], bool]
    kind: str
    words: str


def has_rouge_word(text: str) -> bool:
    """Whether ROUGE-L sees a word: a run of a-z and 0-9 after lower-casing."""
    return _WORD.search(text.lower()) is not None


SIGHTS = {
    "rougeL": Sight(has_rouge_word, "words", "a-z and 0-9 only"),
    "rougeL_unicode": Sight(has_unicode_word, "unicode_words", "letters and numbers"),
}


def num_without_words(references: Iterable[Sequence[str]], metric: str = "rougeL") -> int:
    """How many rows have no reference with a word: every answer to them scores 0.

    Args:
        metric: a key of SIGHTS.
    """
    has_word = SIGHTS[metric].has_word
    return sum(not any(map(has_word, texts)) for texts in references)


def word_counts(
    metrics: Iterable[str], references: Sequence[Sequence[str]], answers: Sequence[str], noun: str
) -> dict[str, int]:
    """For each metric with a Sight, how many rows and how many answers have no word.

    Args:
        noun: what the answers are called in the counts' names, such as "answers".
    """
    counts = {}
    for name in metrics:
        if name in SIGHTS:
            sight = SIGHTS[name]
            counts[f"num_references_without_{sight.kind}"] = num_without_words(references, name)
            counts[f"num_{noun}_without_{sight.kind}"] = sum(
                not sight.has_word(text) for text in answers
            )
    return counts


def word_notes(counts: Mapping[str, object], num_rows: int, *, suffix: str = ",none") -> list[str]:
    """Notes for the reader, one for each metric that does not see all rows.

    Args:
        counts: with `word_counts` among them, such as the metrics of a task; `suffix` follows
            their names.
        num_rows: all rows.
    """
    keys = {name: f"num_references_without_{sight.kind}{suffix}" for name, sight in SIGHTS.items()}
    notes = []
    for name, key in keys.items():
        found = counts.get(key, 0)
        # Counts that were read from a results file are floats.
        number = int(found) if isinstance(found, int | float) else 0
        if number == 0:
            continue
        rest = "it says nothing here" if number == num_rows else "it says nothing about these"
        instead = "exact_match"
        if name == "rougeL":
            has_other = keys["rougeL_unicode"] in counts
            instead = "rougeL_unicode" if has_other else "exact_match, or --rouge_tokenizer unicode"
        notes.append(
            f"{name}: {number} of {num_rows} rows have no reference with a word that ROUGE-L sees "
            f"({SIGHTS[name].words}), so every answer to them scores 0; {rest}, see {instead}"
        )
    return notes
