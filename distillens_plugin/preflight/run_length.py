"""A run without steps is refused, and a fraction of an epoch that is less than a step.

A schedule that does not do in these steps what it is for is noted: a trial run may be that short.
"""

from math import ceil, floor

from distillens_plugin.recipe.schema.by_steps import interval_in_steps
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError


def check_enough_rows(recipe: Recipe, num_rows: int, num_processes: int) -> None:
    """Refuses training data too few for a whole batch per process if `drop_last` asks for one.

    Also `check_intervals`. Needs only the number of rows, or an upper bound of it. Does not judge
    a recipe that has its own sampler or batch sampler.

    Raises:
        DistillensError: see above.
    """
    loader = recipe.train.train_data_loader
    batch_size = loader.kwargs.batch_size
    if loader.sampler or loader.batch_sampler:
        return
    if loader.kwargs.drop_last and num_rows // batch_size < num_processes:
        where = recipe.where("train.train_data_loader.kwargs.drop_last")
        each = f" for each of {num_processes} processes" if num_processes > 1 else ""
        raise DistillensError(
            f"{where}: {num_rows} training rows do not fill a batch of {batch_size}{each}, and "
            "drop_last drops incomplete batches, so nothing would be trained; lower batch_size or "
            "set drop_last: false"
        )
    if not loader.packing and not recipe.datasets.train.streaming:
        # At most as many as on one process.
        check_intervals(
            recipe, ceil(ceil(num_rows / batch_size) / recipe.train.optimizer.grad_accum_step)
        )


def check_intervals(recipe: Recipe, steps_per_epoch: int) -> None:
    """Refuses fractions of an epoch (`save_every`, `eval_every`) that are less than a step.

    Args:
        steps_per_epoch: optimiser steps of an epoch, or an upper bound.
    Raises:
        DistillensError: see above.
    """
    for key in ("save_every", "eval_every"):
        every = getattr(recipe.train, key)
        if every is not None and interval_in_steps(every, steps_per_epoch) < 1:
            steps = "step" if steps_per_epoch == 1 else "steps"
            raise DistillensError(
                f"{recipe.where(f'train.{key}')}: found {every:g} of an epoch, which has "
                f"{steps_per_epoch} {steps}; expected at least one step: set 1 for every step"
            )


def check_steps(recipe: Recipe, num_rows: int, num_steps: int) -> None:
    """Refuses a run whose data loader gives no batch.

    Raises:
        DistillensError: see above.
    """
    if num_steps < 1:
        raise DistillensError(
            f"{recipe.where('train.train_data_loader')}: an epoch over {num_rows} training rows "
            "has no batch, so nothing would be trained; check sampler, batch_size and drop_last"
        )


def schedule_notes(recipe: Recipe, num_steps: int, steps_per_epoch: int) -> list[str]:
    """A line for each of these: the learning rate never reaches its peak, or never falls from it;
    the run never stops early.

    Args:
        num_steps: optimiser steps of the run, and `steps_per_epoch` those of an epoch.
    """
    scheduler, peak = recipe.train.scheduler, recipe.train.optimizer.kwargs.get("lr")
    notes = _stopping_notes(recipe, num_steps, steps_per_epoch)
    warmup = scheduler.warmup_steps(num_steps)
    if warmup >= num_steps:
        notes.append(
            f"note: train.scheduler.kwargs warms up for {warmup} steps, and the run has "
            f"{num_steps}: the learning rate never reaches lr"
        )
    floor = scheduler.kwargs.get("min_lr") if scheduler.own_key is not None else None
    if floor is not None and peak is not None and floor >= peak:
        notes.append(
            f"note: train.scheduler.kwargs.min_lr is {floor:g}, and lr {peak:g}: the learning rate "
            "never falls below lr"
        )
    return notes


def _stopping_notes(recipe: Recipe, num_steps: int, steps_per_epoch: int) -> list[str]:
    stopping, every = recipe.train.early_stopping, recipe.train.eval_every
    if stopping is None:
        return []
    interval = steps_per_epoch if every is None else interval_in_steps(every, steps_per_epoch)
    # Those before the last step, which ends the run in any case; the first one sets the reference.
    num_evaluations = floor((num_steps - 1) / interval)
    if stopping.patience < num_evaluations:
        return []
    return [
        f"note: train.early_stopping.patience is {stopping.patience}, which ends a run at "
        f"evaluation {stopping.patience + 1} at the earliest, and there are {num_evaluations} "
        "before the last step: the run never stops early"
    ]
