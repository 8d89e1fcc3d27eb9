"""The accelerator of a run: precision, trackers, processes, and how models are sharded."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from distillens_plugin.preflight.sharding import check_fits
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.sharding.launch import Launch, launch_of
from eval_harness.errors import DistillensError


def make_accelerator(recipe: Recipe, tracker_folder: Path | None) -> Accelerator:
    """accelerate, with the recipe's precision and trackers; processes come from its launcher.

    Raises:
        DistillensError: the launcher shards in a way that is not supported, or that does not fit
            the recipe.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    for tracker in recipe.trackers:
        _check_tracker(tracker)
    launch = launch_of(os.environ)
    check_fits(recipe, launch.kind)
    arguments: dict[str, Any] = {}
    if recipe.sharding.timeout_minutes is not None:
        timeout = timedelta(minutes=recipe.sharding.timeout_minutes)
        arguments["kwargs_handlers"] = [InitProcessGroupKwargs(timeout=timeout)]
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        log_with=(list(recipe.trackers) or None) if tracker_folder is not None else None,
        project_dir=str(tracker_folder) if tracker_folder is not None else None,
        **arguments,
    )
    _check_took_effect(accelerator, launch)
    if launch.kind in ("zero1", "zero2"):
        _tell_deepspeed(accelerator, recipe)
    if launch.shards_models:
        _add_up_gradients_in_float32(accelerator)
    return accelerator


def _check_took_effect(accelerator: Accelerator, launch: Launch) -> None:
    """accelerate ignores FSDP on a CPU, and in a single process, without a word."""
    if launch.shards_models and not accelerator.is_fsdp2:
        raise DistillensError(
            f"accelerate is set up for FSDP2, but shards nothing here ({accelerator.device.type}, "
            f"{accelerator.num_processes} processes); it needs GPUs, and a launcher that starts a "
            "process for each: accelerate launch --config_file recipes/accelerate/fsdp2.yaml"
        )


def _tell_deepspeed(accelerator: Accelerator, recipe: Recipe) -> None:
    """What the recipe says of a step; windows are the runner's, so its engine accumulates none."""
    loader, optimizer = recipe.train.train_data_loader, recipe.train.optimizer
    accelerator.state.deepspeed_plugin.deepspeed_config |= {
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.max_grad_norm or 0.0,
        # DeepSpeed only reports it.
        "train_micro_batch_size_per_gpu": loader.kwargs.batch_size or 1,
    }


def _add_up_gradients_in_float32(accelerator: Accelerator) -> None:
    """accelerate's policy for bf16 would add the ranks' gradients up in bfloat16."""
    plugin = accelerator.state.fsdp_plugin
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32
        )


def _check_tracker(tracker: str) -> None:
    from accelerate.tracking import get_available_trackers

    if tracker not in {str(name) for name in get_available_trackers()}:
        raise DistillensError(f"trackers: {tracker} is not installed; pip install {tracker}")
