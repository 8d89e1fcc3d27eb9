"""What `final_answer` cannot read: answers and references without one clear final number."""

from collections.abc import Iterable, Mapping, Sequence

from eval_harness.shared.text.final_answers import final_answer, is_unreadable

_METRIC = "final_answer"
_REFERENCES = "num_references_unreadable"


def unreadable_counts(
    metrics: Iterable[str],
    references: Sequence[Sequence[str]],
    answers: Sequence[str],
    noun: str,
) -> dict[str, int]:
    """How many rows have no readable reference, and how many answers cannot be read.

    Args:
        metrics: {} is returned unless `final_answer` is one of them.
        references: of N rows.
        answers: N x S texts, S for each row, in the order of the rows.
        noun: what the answers are called in the counts' names, such as "answers".
    """
    if _METRIC not in metrics:
        return {}
    per_row = len(answers) // max(1, len(references))
    return {
        _REFERENCES: sum(all(final_answer(text) is None for text in texts) for texts in references),
        f"num_{noun}_unreadable": sum(
            is_unreadable(text, references[place // per_row]) for place, text in enumerate(answers)
        ),
    }


def unreadable_references_note(
    counts: Mapping[str, object], num_rows: int, *, suffix: str = ",none"
) -> str | None:
    """A note for the reader; None if all rows have a reference that can be read.

    Args:
        counts: with `unreadable_counts` among them; `suffix` follows their names.
    """
    number = counts.get(f"{_REFERENCES}{suffix}")
    if not number:
        return None
    return (
        f"{_METRIC}: {number} of {num_rows} rows have no reference with a single final number; "
        "there, only an answer that is written the same way is right"
    )


def unreadable_answers_note(counts: Mapping[str, object]) -> str | None:
    """A note for the reader; None if all answers of a task can be read.

    Args:
        counts: a task's metrics.
    """
    number = counts.get("num_answers_unreadable,none")
    if not number:
        return None
    are = "answer has" if number == 1 else "answers have"
    return (
        f"{_METRIC}: {number} {are} no single final number (none at all, a range, a list, a "
        "calculation), and none is guessed: wrong"
    )
