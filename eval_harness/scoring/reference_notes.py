"""What the metrics of a task cannot see of its references, which are the same for all models."""

from collections.abc import Iterable, Mapping, Sequence

from eval_harness.results.schema import TaskResult
from eval_harness.scoring.exact_match import blank_references_note
from eval_harness.scoring.rouge_words import word_notes
from eval_harness.scoring.row_scores import scored_by, some_scored_note
from eval_harness.scoring.unreadable import unreadable_references_note


def reference_notes(
    counts: Mapping[str, object],
    num_rows: int,
    references: Iterable[Sequence[str]],
    *,
    suffix: str = ",none",
) -> list[str]:
    """Notes for the reader, in the order of ROUGE-L, final answers and exact match.

    Args:
        counts: with those of `word_counts` and `unreadable_counts`, such as the metrics of a task;
            `suffix` follows their names.
        num_rows: that are scored.
        references: of the rows that exact match scores; none: nothing is said of it.
    """
    found = [
        *word_notes(counts, num_rows, suffix=suffix),
        unreadable_references_note(counts, num_rows, suffix=suffix),
        blank_references_note(references),
    ]
    return [note for note in found if note]


def task_notes(task: TaskResult) -> list[str]:
    """The same of a task's results, after a note where only some rows have a reference.

    Exact match's needs the samples.
    """
    # Counts that were read from a results file are floats.
    counts = {
        name: int(value) if isinstance(value, float) and name.startswith("num_") else value
        for name, value in task.metrics.items()
    }
    given = counts.get("num_scored,none")
    scored = given if isinstance(given, int) else task.num_effective
    some = some_scored_note(scored, task.num_effective)
    references = (sample.target for sample in scored_by(task.samples, "exact_match"))
    return [*([some] if some else []), *reference_notes(counts, scored, references)]
