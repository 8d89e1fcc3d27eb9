"""At which steps a run evaluates and saves: `train.eval_every` and `train.save_every`."""

from dataclasses import dataclass
from math import floor

from distillens_plugin.recipe.schema.by_steps import interval_in_steps


@dataclass(frozen=True)
class Schedule:
    """When a run evaluates and saves; in any case it does both after its last step.

    Args:
        save_every, eval_every: optimiser steps, or a fraction of an epoch; None: after each epoch.
        steps_per_epoch: optimiser steps of one epoch.
    """

    save_every: float | None = None
    eval_every: float | None = None
    steps_per_epoch: int = 1

    def saves(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether the run saves after this step, counted from 1."""
        return self._is_due(self.save_every, step, ends_epoch)

    def evaluates(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether the run evaluates after this step, counted from 1."""
        return self._is_due(self.eval_every, step, ends_epoch)

    def _is_due(self, every: float | None, step: int, ends_epoch: bool) -> bool:
        if every is None:
            return ends_epoch
        # The steps at which another interval is complete: 0.25 of 10 steps gives 3, 5, 8, 10.
        interval = interval_in_steps(every, self.steps_per_epoch)
        return floor(step / interval) > floor((step - 1) / interval)
