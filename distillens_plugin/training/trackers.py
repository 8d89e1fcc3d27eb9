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

_PROJECT = "distillens"

Setting = str | int | float | bool


def start_trackers(
    recipe: Recipe, run: Path, accelerator: Accelerator, *, anew: bool = False
) -> None:
    """Starts the trackers of a recipe, on the main process.

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
                    init_kwargs={"wandb": {"dir": str(folder)}},
                )
            except Exception as error:
                raise RunFailure(
                    f"trackers: {' and '.join(recipe.trackers)} cannot start ({error}); for wandb, "
                    "run `wandb login`, or set WANDB_MODE=offline and sync later; or delete the key"
                ) from error

    on_main_process(accelerator, start)


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
