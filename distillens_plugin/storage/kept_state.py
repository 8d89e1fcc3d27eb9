"""What a run keeps between two steps, so that `--resume` continues as if never interrupted.

<output_dir>/state/            the newest; a finished run has none
    standing.json              step, epoch, scores, sums of the log, recipe and fingerprint
    metrics.jsonl              as of that step, and so lens.jsonl and answers.jsonl
    model, optimizer, scheduler, scaler, loss, random, order   each as `state_format` writes it
    manifest.json              sizes and SHA-256 of all these, checked before any is loaded
<output_dir>/state_before/     the one before, for a newest that is damaged

In the middle of an epoch, `order` holds the random states with which it began: they give the same
batches again, of which the first ones are left out. The main process writes everything, including
the random states of the other processes. What is sharded is kept whole (`sharding.state`), so that
other processes, or other shards, can go on with it.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from distillens_plugin.integrations.torchdistill.processes import trained_model
from distillens_plugin.lens.probe import unwrap
from distillens_plugin.losses.box import Box
from distillens_plugin.losses.trained_parameters import load_loss_state, loss_optimizer, loss_state
from distillens_plugin.sharding.state import (
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.main_process import on_main_process
from distillens_plugin.storage.manifest import find_damage, write_manifest
from distillens_plugin.storage.random_states import random_states, restore_or_seed
from distillens_plugin.storage.state_format import pack, read_value, write_value
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.exchange import partial_of, remove, replace_folder

FORM = "distillens state 1"
_STANDING = "standing.json"
# What states before this form held; reading them could run code.
_PICKLES = (".bin", ".pkl", ".pt")


@dataclass
class Standing:
    """Where a run stands between two steps.

    Attributes:
        epoch: number of finished epochs, and `batches_taken`, those of the epoch since then on each
            process: whole accumulation windows.
        history: of `history.History`.
        averages, progress: sums of the log and of the bar (`Averages`, `Progress`).
        seconds: of work since the start, without interruptions.
        loss_before: validation loss before training.
        share: of on-policy rows (`on_policy.Share`); None without.
        balance: of weights that are measured (`TermBalance`); None without.
        recipe: text of recipe.yaml.
        fingerprint: of `storage.fingerprint`.
        stream: where each process stood in a stream (`StreamLoader.state`); None without.
        report_seconds: spent on measuring itself, so far.
    """

    step: int
    epoch: int
    history: dict[str, Any]
    averages: dict[str, Any]
    progress: dict[str, Any]
    seconds: float
    loss_before: float | None
    share: dict[str, Any] | None
    num_processes: int
    recipe: str
    fingerprint: dict[str, Any]
    stream: list[dict[str, Any]] | None = None
    batches_taken: int = 0
    report_seconds: float = 0.0
    balance: dict[str, Any] | None = None


def save_state(
    folder: Path,
    accelerator: Accelerator,
    box: Box,
    standing: Standing,
    *,
    order: object = None,
    keep_last: int = 2,
) -> None:
    """Keeps a state as the newest; the newest so far becomes the one before.

    Every process calls it.

    Args:
        folder: of the run, with its metrics.jsonl.
        order: what gives this process's batches their order, for `read_order`.
        keep_last: 2, or 1 to keep no state before the newest.
    Raises:
        RunFailure: on every process, if the main process cannot write.
    """
    states = gather_object([random_states()])
    orders = gather_object([order])
    # All processes take part in gathering what is sharded.
    parts = {**_parts(accelerator, box), "random": states, "order": orders}
    state = folder / run_folder.STATE

    def write() -> None:
        partial = partial_of(state)
        try:
            remove(partial)
            partial.mkdir(parents=True)
            text = json.dumps(asdict(standing), allow_nan=False)
            (partial / _STANDING).write_text(text, encoding="utf-8")
            for name in run_folder.GROWING:
                # Not every run measures itself.
                if name == run_folder.METRICS or (folder / name).exists():
                    shutil.copyfile(folder / name, partial / name)
            for name, value in parts.items():
                write_value(partial, name, value)
            write_manifest(partial, FORM)
            before = folder / run_folder.STATE_BEFORE if keep_last > 1 else None
            replace_folder(partial, state, keep=before)
        except BaseException as error:
            remove(partial)
            if not isinstance(error, Exception):
                raise
            raise RunFailure(
                f"{state}: cannot keep the state ({error}); make room, or set resumable: false"
            ) from error

    on_main_process(accelerator, write)


def check_can_be_kept(accelerator: Accelerator, box: Box) -> None:
    """Refuses, before training, an optimiser or schedule whose state cannot be kept.

    Raises:
        DistillensError: names what it holds.
    """
    for name, state in _schedule_parts(box).items():
        try:
            pack(state, name)
        except TypeError as error:
            raise DistillensError(
                f"train.{name}: its state cannot be kept ({error}; only tensors and plain values "
                "can); choose another one, or set resumable: false"
            ) from error


def load_state(state: Path, accelerator: Accelerator, box: Box, *, seed: int) -> None:
    """Puts weights, optimiser, schedule and random numbers into what a recipe has just built.

    Args:
        state: the folder of an undamaged state.
        seed: of the recipe; processes that are new draw their random numbers from it.
    Raises:
        DistillensError: the state does not fit, or this process cannot see it.
    """
    if not state.is_dir():
        raise DistillensError(
            f"{state}: process {accelerator.process_index} cannot see it, but the main process "
            "can; name a shared folder with --output_dir"
        )
    try:
        for name, model in _models(box).items():
            load_model_state(model, read_value(state, name))
        loaders: dict[str, Callable[[Any], object]] = {
            "optimizer": lambda found: load_optimizer_state(box.optimizer, found),
            "loss": lambda found: load_loss_state(box.criterion, found),
        }
        if box.lr_scheduler is not None:
            loaders["scheduler"] = box.lr_scheduler.load_state_dict
        if accelerator.scaler is not None:
            loaders["scaler"] = accelerator.scaler.load_state_dict
        own = loss_optimizer(box)
        if own is not None:
            loaders["loss_optimizer"] = own.load_state_dict
        if (own is not None) != (state / "loss_optimizer.json").exists():
            raise ValueError(
                "with FSDP2 trained projections have an optimiser of their own, without they have "
                "none: launch with the configuration of before"
            )
        for name, load in loaders.items():
            load(read_value(state, name))
        states = read_value(state, "random")
        restore_or_seed(states, process=accelerator.process_index, seed=seed)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DistillensError(
            f"{state}: does not fit this run ({reason}); was it kept by other versions? Start "
            "over with --overwrite"
        ) from error


def read_order(state: Path, process_index: int) -> Any:
    """What a process gave to `save_state` as its order; None in states of earlier versions.

    A process that is new gets the first one's.
    """
    if not (state / "order.json").exists():
        return None
    orders = read_value(state, "order")
    return orders[process_index if process_index < len(orders) else 0]


def damage_of(state: Path) -> str | None:
    """What is wrong with a state, such as `model.safetensors is missing`; None if nothing is.

    Raises:
        DistillensError: it has the old form, which is never read.
    """
    pickled = sorted(path.name for path in state.iterdir() if path.suffix in _PICKLES)
    if pickled and not (state / "manifest.json").exists():
        raise DistillensError(
            f"{state}: was kept by an older version as a pickle ({pickled[0]}): reading it could "
            "run code, and damage would go unnoticed; start over with --overwrite"
        )
    return find_damage(state, FORM)


def read_standing(state: Path) -> Standing:
    """The standing of an undamaged state.

    Raises:
        DistillensError: it cannot be read.
    """
    path = state / _STANDING
    try:
        return Standing(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DistillensError(
            f"{path}: cannot be read ({error}); start over with --overwrite"
        ) from error


def _parts(accelerator: Accelerator, box: Box) -> dict[str, Any]:
    """Everything that training changes, by file name; every process calls it."""
    return {
        **{name: model_state(model) for name, model in _models(box).items()},
        **_schedule_parts(box),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        "loss": loss_state(box.criterion),
    }


def _schedule_parts(box: Box) -> dict[str, Any]:
    """The states of optimisers and schedule, by file name."""
    own, schedule = loss_optimizer(box), box.lr_scheduler
    return {
        "optimizer": optimizer_state(box.optimizer),
        **({"loss_optimizer": own.state_dict()} if own is not None else {}),
        "scheduler": schedule.state_dict() if schedule is not None else None,
    }


def _models(box: Box) -> dict[str, nn.Module]:
    """What is trained; torchdistill can train parts of the teacher too."""
    models = {"model": unwrap(trained_model(box))}
    if getattr(box, "teacher_updatable", False):
        models["teacher"] = unwrap(box.teacher_model)
    return models
