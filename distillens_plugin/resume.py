"""What a run keeps after each epoch, so that `--resume` goes on from there as if nothing had been.

<output_dir>/state/            there while the run goes on; a finished run has none
    standing.json              step, epoch, scores, and what the logs had summed up
    extra.pt                   schedule, and what the loss trained beside the model
    (the rest)                 accelerate's: weights, optimiser, loss scale, random numbers of each
                               process

The order of the batches depends on seed and epoch alone, so that whole epochs need no more.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import gather_object

from distillens_plugin import output
from distillens_plugin.checkpoint import put_back, replace_folder
from distillens_plugin.loss_parameters import load_loss_state, loss_state
from distillens_plugin.main_process import on_main_process
from eval_harness.errors import DistillensError, RunFailure

_STANDING, _EXTRA = "standing.json", "extra.pt"


@dataclass
class Standing:
    """Where a run stands after a whole epoch.

    Attributes:
        history: of `trainer.History`.
        averages, progress: sums of the log and of the bar (`metrics.Averages`, `Progress`).
        seconds: since the run began, without the time it lay still.
        loss_before: validation loss before training.
        share: of on-policy rows (`on_policy.Share`); None without.
        metrics_bytes: length of metrics.jsonl; later lines are written again.
    """

    step: int
    epoch: int
    history: dict[str, Any]
    averages: dict[str, Any]
    progress: dict[str, Any]
    seconds: float
    loss_before: float | None
    share: dict[str, Any] | None
    metrics_bytes: int
    num_processes: int


def save_state(folder: Path, accelerator: Accelerator, box: Any, standing: Standing) -> None:
    """Replaces the state of the epoch before, whole or not at all. Every process calls it.

    Raises:
        RunFailure: on every process, where one of them could not write.
    """
    state = folder / output.STATE
    partial = state.with_name(f".{state.name}.partial")

    def prepare() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / _STANDING).write_text(json.dumps(asdict(standing)), encoding="utf-8")
        torch.save(_extra(box), partial / _EXTRA)

    # Each stage ends on all processes before the next begins: none waits for one that failed.
    on_main_process(accelerator, lambda: _or_failure(state, prepare))
    error = None
    try:
        with _quiet():
            accelerator.save_state(str(partial))
    except Exception as raised:
        error = str(raised)
    errors = [found for found in gather_object([error]) if found is not None]
    if errors:
        raise RunFailure(_cannot_keep(state, errors[0]))
    on_main_process(accelerator, lambda: _or_failure(state, lambda: replace_folder(partial, state)))


def _or_failure(state: Path, action: Callable[[], None]) -> None:
    try:
        action()
    except (OSError, RuntimeError) as error:
        raise RunFailure(_cannot_keep(state, error)) from error


def _cannot_keep(state: Path, why: object) -> str:
    return f"{state}: cannot keep the state ({why}); make room, or set resumable: false"


def load_state(folder: Path, accelerator: Accelerator, box: Any) -> None:
    """Weights, optimiser, schedule and random numbers, into what a recipe has just built.

    Raises:
        DistillensError: the state cannot be read.
    """
    state = folder / output.STATE
    try:
        extra = torch.load(state / _EXTRA, map_location="cpu", weights_only=True)
        load_loss_state(box.criterion, extra["loss"])
        if box.lr_scheduler is not None:
            box.lr_scheduler.load_state_dict(extra["scheduler"])
        with _quiet():
            accelerator.load_state(str(state))
    except Exception as error:
        raise DistillensError(
            f"{state}: cannot be read ({error}); train anew with --overwrite"
        ) from error


def find_standing(
    folder: Path, recipe_plain: dict[str, Any], num_processes: int
) -> Standing | None:
    """Where the run in `folder` stands; None where there is no run, or none with a whole epoch.

    Raises:
        DistillensError: the run there is one of another recipe or number of processes, or its
            state cannot be read.
    """
    check_same_recipe(folder, recipe_plain)
    put_back(folder / output.STATE)
    path = folder / output.STATE / _STANDING
    if not path.is_file():
        return None
    try:
        standing = Standing(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DistillensError(
            f"{path}: cannot be read ({error}); train anew with --overwrite"
        ) from error
    if standing.num_processes != num_processes:
        raise DistillensError(
            f"--resume: the run in {folder} had {standing.num_processes} processes, found "
            f"{num_processes}; start as many, or train anew with --overwrite"
        )
    return standing


def is_finished(folder: Path) -> bool:
    return (folder / output.SUMMARY).is_file()


def check_same_recipe(folder: Path, recipe_plain: dict[str, Any]) -> None:
    """Refuses to go on with a run of another recipe; where and what it keeps does not matter.

    Raises:
        DistillensError: naming the first key that differs.
    """
    path = folder / output.RECIPE
    if not path.is_file():
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    # As it would be read again: a tuple comes back as a list.
    now = yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(recipe_plain))))
    difference = _difference(before, now, "")
    if difference is not None:
        raise DistillensError(
            f"--resume: {path} is of another recipe ({difference}); put it back, name another "
            "folder with --output_dir, or train anew with --overwrite"
        )


def _difference(before: Any, now: Any, path: str) -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *before]:
            here = f"{path}.{key}" if path else str(key)
            if here in ("output_dir", "resumable"):
                continue
            if key not in now or key not in before:
                kept, given = before.get(key, "not there"), now.get(key, "not there")
                return f"{here} was {kept!r} and is {given!r}"
            found = _difference(before[key], now[key], here)
            if found is not None:
                return found
        return None
    return None if before == now else f"{path} was {before!r} and is {now!r}"


def _extra(box: Any) -> dict[str, Any]:
    scheduler = box.lr_scheduler.state_dict() if box.lr_scheduler is not None else None
    return {"scheduler": scheduler, "loss": loss_state(box.criterion)}


@contextmanager
def _quiet() -> Iterator[None]:
    """accelerate warns of every tied weight that it saves once."""
    logger = logging.getLogger("accelerate")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
