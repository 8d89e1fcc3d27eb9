"""Metrics of lm-eval's own tasks that share their name with one of ours and nothing else."""

from collections.abc import Sequence

from eval_harness.results.lm_eval_files import LmEvalTask
from eval_harness.scoring.checked_metrics import CHECKED_METRICS
from eval_harness.scoring.metrics import METRICS

_MARK = " (lm-eval)"


def name_apart(task: LmEvalTask) -> None:
    """Marks the scores with a name of ours, so that they are paired with lm-eval's only.

    Ours are x 100, and exact_match is normalised otherwise. Tasks of `export-lm-eval` have ours.
    """
    if task.is_exported:
        return
    for sample in task.samples:
        sample.scores = {
            f"{name}{_MARK}" if name in METRICS or name in CHECKED_METRICS else name: values
            for name, values in sample.scores.items()
        }


def apart_note(having: Sequence[Sequence[str]]) -> str | None:
    """Why metrics of one name are no pair; None if there are none.

    Args:
        having: the metrics of each system.
    """
    ours = {name for names in having for name in names}
    marked = sorted(name for name in ours if f"{name}{_MARK}" in ours)
    if not marked:
        return None
    return (
        f"{', '.join(marked)} of lm-eval's own tasks is no pair for ours (other units, other "
        "normalisation); eval-harness export-lm-eval writes tasks with ours"
    )
