"""Experiment trackers: where they write, and the recipe as their configuration."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.main_process import on_main_process
from eval_harness.errors import RunFailure
from eval_harness.shared.files.atomic import write_text

_PROJECT = "distillens"
# Beside wandb's own files, so that a new run, which sets those of an earlier one aside, has none.
_WANDB_ID = "wandb_id"

Setting = str | int | float | bool


def start_trackers(
    recipe: Recipe, run: Path, accelerator: Accelerator, *, anew: bool = False
) -> None:
    """Starts the trackers of a recipe, on the main process.

    A run that is resumed goes on in the same run of wandb.

    Args:
        run: the run's folder, which has a folder for their files.
        anew: an earlier run may be there; it is as it was if a tracker cannot start.
    Raises:
        RunFailure: one cannot start: wandb asks for a login, or its server does not answer.
    """
    if not recipe.trackers:
        return

    folder = run / run_folder.TRACKERS

    def start() -> None:
        with run_folder.trackers_anew(run) if anew else nullcontext():
            # wandb takes another place for a folder that is not there.
            folder.mkdir(exist_ok=True)
            try:
                accelerator.init_trackers(
                    _PROJECT,
                    config=flat_settings(recipe),
                    init_kwargs={"wandb": {"dir": str(folder), **_same_wandb_run(folder)}},
                )
            except Exception as error:
                raise RunFailure(
                    f"trackers: {' and '.join(recipe.trackers)} cannot start ({error}); for wandb, "
                    "run `wandb login`, or set WANDB_MODE=offline and sync later; or delete the key"
                ) from error
            if "wandb" in recipe.trackers:
                run_id = accelerator.get_tracker("wandb", unwrap=True).id
                write_text(folder / _WANDB_ID, f"{run_id}\n")

    on_main_process(accelerator, start)


def _same_wandb_run(folder: Path) -> dict[str, str]:
    """What makes wandb go on with the run whose id was kept; nothing, where there is none."""
    try:
        run_id = (folder / _WANDB_ID).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return {}
    return {"id": run_id, "resume": "allow"} if run_id else {}


def flat_settings(recipe: Recipe) -> dict[str, Setting]:
    """The resolved recipe, defaults included, under names such as `train.optimizer.kwargs.lr`.

    Lists are JSON; keys that are null are left out, since trackers take neither.
    """
    return _flat(recipe.model_dump(mode="json"), "")


def _flat(node: dict[str, Any], prefix: str) -> dict[str, Setting]:
    flat: dict[str, Setting] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        elif isinstance(value, list):
            flat[name] = json.dumps(value)
        elif value is not None:
            flat[name] = value
    return flat
