"""The accelerator of a run: precision, trackers, processes."""

from pathlib import Path

import torch
from accelerate import Accelerator

from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError


def make_accelerator(recipe: Recipe, tracker_folder: Path | None) -> Accelerator:
    """accelerate, with the recipe's precision and trackers; processes come from its launcher."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    for tracker in recipe.trackers:
        _check_tracker(tracker)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        log_with=(list(recipe.trackers) or None) if tracker_folder is not None else None,
        project_dir=str(tracker_folder) if tracker_folder is not None else None,
    )
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise DistillensError(
            f"accelerate is set up for {kind}, but sharded training is not supported yet; use "
            "plain data parallelism (accelerate launch --multi_gpu)"
        )
    return accelerator


def _check_tracker(tracker: str) -> None:
    from accelerate.tracking import get_available_trackers

    if tracker not in {str(name) for name in get_available_trackers()}:
        raise DistillensError(f"trackers: {tracker} is not installed; pip install {tracker}")
