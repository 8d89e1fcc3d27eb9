"""`--resume` with another number of processes: every optimiser step has the same batches.

accelerate deals the batches of an epoch to the processes in turn, so a step of P processes with
grad_accum_step a takes the next P x a batches of one order. Where that product is the same, so are
the steps: losses, schedule and weights, up to rounding. Only the rows that fill up the last round
of an epoch depend on P, which is told.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.storage.kept_state import Standing
from eval_harness.errors import DistillensError


def without_accumulation(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe but for `train.optimizer.grad_accum_step`, which may then be another one."""
    train = recipe.get("train", {})
    optimizer = {k: v for k, v in train.get("optimizer", {}).items() if k != "grad_accum_step"}
    return {**recipe, "train": {**train, "optimizer": optimizer}}


def for_processes(
    standing: Standing,
    before: dict[str, Any],
    now: dict[str, Any],
    *,
    num_processes: int,
    folder: Path,
) -> Standing:
    """Where the run stands for this number of processes.

    Args:
        before, now: the recipe of the state and that of this start; equal but for
            `grad_accum_step`.
    Raises:
        DistillensError: the steps would have other batches; names what would do.
    """
    if standing.num_processes == num_processes:
        return standing
    found = f"--resume: the run in {folder} used {standing.num_processes} processes"
    if now.get("datasets", {}).get("train", {}).get("streaming"):
        raise DistillensError(
            f"{found}, found {num_processes}, and each process has read its own share of a stream; "
            f"launch {standing.num_processes}, or start over with --overwrite"
        )
    accumulated, accumulates = _accumulation(before), _accumulation(now)
    batches = standing.num_processes * accumulated
    if batches != num_processes * accumulates:
        raise DistillensError(
            f"{found} x {accumulated} batches (train.optimizer.grad_accum_step) a step, found "
            f"{num_processes} x {accumulates}; {_remedy(batches, num_processes)}, or start over "
            "with --overwrite"
        )
    taken = standing.batches_taken * standing.num_processes // num_processes
    return replace(standing, batches_taken=taken)


def told(experiment: Experiment, standing: Standing) -> list[str]:
    """What is not as it would have been with the number of processes of before.

    Raises:
        DistillensError: an epoch would have another number of steps (`drop_last`).
    """
    accelerator, before = experiment.accelerator, standing.num_processes
    now = accelerator.num_processes
    if before == now:
        return []
    lines = [
        f"note: {now} processes go on where {before} were; those that are new draw random numbers "
        "of their own, so dropout is not that of an uninterrupted run"
    ]
    sampler = experiment.box.train_data_loader.batch_sampler  # type: ignore[attr-defined]
    while isinstance(sampler, BatchSamplerShard):
        sampler = sampler.batch_sampler
    rounds = {each: _num_rounds(sampler, each, accelerator) for each in (before, now)}
    accumulates = experiment.box.grad_accum_step
    steps = math.ceil(rounds[before] / (accumulates * now // before))
    if steps != experiment.steps_per_epoch:
        raise DistillensError(
            f"--resume: {before} processes had {steps} steps an epoch, {now} have "
            f"{experiment.steps_per_epoch}, as drop_last leaves out other batches; launch {before}"
        )
    given = {each: number * each for each, number in rounds.items()}
    if given[before] != given[now]:
        lines.append(
            f"note: the last step of an epoch has other rows than with {before} processes: "
            f"accelerate fills up {len(sampler)} batches to {given[now]}, before to {given[before]}"
        )
    return lines


def _num_rounds(sampler: Any, num_processes: int, accelerator: Accelerator) -> int:
    """Batches of an epoch on each of these processes."""
    if num_processes == 1:
        return len(sampler)
    return len(BatchSamplerShard(sampler, num_processes, 0, even_batches=accelerator.even_batches))


def _accumulation(recipe: dict[str, Any]) -> int:
    return int(recipe.get("train", {}).get("optimizer", {}).get("grad_accum_step", 1))


def _remedy(batches: int, num_processes: int) -> str:
    if batches % num_processes == 0:
        return f"set train.optimizer.grad_accum_step: {batches // num_processes}"
    pairs = [f"{n} x {batches // n}" for n in range(1, batches + 1) if batches % n == 0]
    return f"expected {' or '.join(pairs)}"
