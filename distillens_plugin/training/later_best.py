"""A `best` that is of a later step than the state from which a run is resumed.

`best` is written at each evaluation that improves, a state only at a save. So a run that was killed
between the two has a better model than its state knows of. That model stays the best: its folder
says its step and score, which the resumed run takes over.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillens_plugin.storage import run_folder
from distillens_plugin.storage.kept_state import Standing
from eval_harness.shared.model_folder import trained_with


def with_step(note: str, step: int, score: float | None) -> str:
    """A model folder's note with the step that it is of, and its score by `best_by`.

    Args:
        note: of `trained_with.training_note`.
        score: None without validation.
    """
    own = {"step": step} if score is None else {"step": step, "score": score}
    return json.dumps({**json.loads(note), **own}, indent=2) + "\n"


def with_later_best(folder: Path, standing: Standing) -> tuple[Standing, list[str]]:
    """Where a run stands, with the step and score of a `best` that it has written since then.

    Args:
        folder: of the run.
    Returns:
        The standing, and a line for people if it has changed.
    """
    best = folder / run_folder.BEST
    note = _read(best / trained_with.FILE)
    step, score = note.get("step"), note.get("score")
    # Without a score every save is the best one.
    if not isinstance(step, int) or not isinstance(score, int | float) or step <= standing.step:
        return standing, []
    history = {**standing.history, "best_step": step, "best_score": score}
    line = (
        f"{best}: is of step {step}, which is after the state of step {standing.step}; it stays "
        f"the best model until a better one (score {score:.4f})"
    )
    return replace(standing, history=history), [line]


def _read(path: Path) -> dict[str, Any]:
    # A folder of an earlier version says no step.
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
