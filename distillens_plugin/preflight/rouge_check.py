"""Whether ROUGE-L can choose the best model by the validation rows."""

from collections.abc import Sequence

from eval_harness import SIGHTS, num_without_words
from eval_harness.errors import DistillensError


def check_best_by(best_by: str, references: Sequence[Sequence[str]], where: str) -> str | None:
    """Refuses validation rows on which every answer scores 0.

    Args:
        best_by: `train.best_by`.
        references: of each validation row.
        where: the data set's YAML path, for errors.
    Returns:
        A phrase for people if only some rows are like that; else None.
    Raises:
        DistillensError: all rows are.
    """
    if best_by not in SIGHTS:
        return None
    number = num_without_words(references, best_by)
    words = f"that ROUGE-L sees ({SIGHTS[best_by].words})"
    if references and number == len(references):
        others = [name for name in SIGHTS if num_without_words(references, name) < number]
        raise DistillensError(
            f"{where}: found {number} rows without a word {words} in their references, so every "
            f"model would score 0; set train.best_by: {' or '.join([*others, 'validation_loss'])}"
        )
    if number == 0:
        return None
    return (
        f"{number} of {len(references)} rows have no reference with a word {words} and score 0 for "
        "any answer"
    )
