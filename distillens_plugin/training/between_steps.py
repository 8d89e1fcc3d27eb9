"""What a run does between two of its steps, and what it must keep to resume from there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distillens_plugin.recipe.schema.by_steps import EarlyStopping
from distillens_plugin.training.history import History
from distillens_plugin.training.schedule import Schedule


@dataclass(frozen=True)
class Position:
    """What a run must keep between two steps to resume from there.

    Attributes:
        epoch: number of finished epochs.
        batches_taken: of the epoch since then, on each process.
        order: of this process: `generators`, the states of its samplers' own generators, and
            `random`, those of all others, as the epoch began; None between two epochs.
    """

    epoch: int
    batches_taken: int
    history: History
    averages: dict[str, Any]
    progress: dict[str, float]
    order: dict[str, Any]


@dataclass(frozen=True)
class BetweenSteps:
    """What happens between two steps, in this order.

    Attributes:
        schedule: when to evaluate and save; both happen after the last step too.
        evaluate: returns scores by name; None without validation data, and then every save is
            `best` as well.
        measure: called after an evaluation in the middle of the run, whose record is written.
        early_stopping: whether the scores end the run.
        keep: called before saving, so that an interrupted save is repeated from the kept state;
            None means that the run cannot be resumed.
        save: called with `last`, and with `best` if the score improved.
        stop_signal: asked by all processes together: a signal's number, or 0. Then a state is kept
            and `stop` called with it, which raises.
        score_name: of the score that decides `best`.
    """

    schedule: Schedule
    evaluate: Callable[[], dict[str, float]] | None
    early_stopping: EarlyStopping | None
    keep: Callable[[Position], None] | None
    save: Callable[[str], None]
    stop_signal: Callable[[], int]
    stop: Callable[[int], None]
    measure: Callable[[], None] = lambda: None
    score_name: str = "validation_loss"
    higher_is_better: bool = False
