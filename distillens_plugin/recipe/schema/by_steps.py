"""Keys of the train section about what happens within an epoch: saves, scores, an early end."""

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, Field

from distillens_plugin.recipe.schema.base import Count, NonNegative, Strict, complain, problem


@dataclass(frozen=True)
class _Interval:
    """Optimiser steps, or a part of an epoch."""

    def __str__(self) -> str:
        return "a whole number of steps, or a fraction of an epoch below 1"

    def __call__(self, value: float) -> float:
        is_whole = float(value).is_integer()
        # Written so that NaN, which compares as false, is refused too.
        if not value > 0 or (value >= 1 and not is_whole):
            problem(int(value) if is_whole else value, str(self))
        return value


Interval = Annotated[float, AfterValidator(_Interval())]


class EarlyStopping(Strict):
    """Ends a run whose score no longer improves; the score is that of `best_by`."""

    patience: Count = Field(
        description="evaluations in a row without an improvement, after which the run ends"
    )
    min_delta: NonNegative = Field(
        default=0.0, description="an improvement is a score that is better by more than this"
    )


def interval_in_steps(every: float, steps_per_epoch: int) -> Fraction:
    """Optimiser steps between two of what an `Interval` asks for; not a whole number for most
    fractions of an epoch, whose parts then differ by a step."""
    # By its text: 0.1 is a tenth here, not the double next to it.
    exact = Fraction(str(every))
    return exact if every >= 1 else exact * steps_per_epoch


def check_by_steps(given: Collection[str], *, has_validation: bool, resumable: bool) -> None:
    """Refuses, inside a validator, keys of the train section that would have no effect.

    Args:
        given: those that the recipe has.
    """
    if not has_validation:
        for key in ("eval_every", "early_stopping"):
            if key in given:
                complain(
                    "there is nothing to evaluate without datasets.validation; add it, or delete "
                    "the key",
                    at=("train", key),
                )
    if not resumable and "keep_last" in given:
        complain(
            "found resumable: false, with which no state is kept; delete one of the two keys",
            at=("train", "keep_last"),
        )
