"""Whether ROUGE-L can choose the best model by the validation rows."""

from collections.abc import Iterable, Sequence

from eval_harness import num_without_words
from eval_harness.errors import DistillensError


def check_rouge_words(references: Iterable[Sequence[str]], where: str) -> str | None:
    """Refuses validation rows on which every answer scores 0.

    Args:
        references: of each validation row.
        where: the data set's YAML path, for errors.
    Returns:
        A phrase for people if only some rows are like that; else None.
    Raises:
        DistillensError: all rows are.
    """
    rows = list(references)
    number = num_without_words(rows)
    if rows and number == len(rows):
        raise DistillensError(
            f"{where}: found {number} rows without a word that ROUGE-L sees (a-z and 0-9 only) in "
            "their references, so every model would score 0; set train.best_by: validation_loss"
        )
    if number == 0:
        return None
    return (
        f"{number} of {len(rows)} rows have no reference with a word that ROUGE-L sees (a-z and "
        "0-9 only) and score 0 for any answer"
    )
