"""The accelerator of a run: precision, trackers, processes, and how models are sharded."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from distillens_plugin.experiment.meeting import signals_end_at_once
from distillens_plugin.preflight.sharding import check_fits, check_precision
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.sharding.launch import Launch, launch_of
from eval_harness.errors import DistillensError


def make_accelerator(recipe: Recipe, tracker_folder: Path | None) -> Accelerator:
    """accelerate, with the recipe's precision and trackers; processes come from its launcher.

    Raises:
        DistillensError: the launcher shards in a way that is not supported, or that does not fit
            the recipe, or asks for another precision than the recipe.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    for tracker in recipe.trackers:
        _check_tracker(tracker)
    launch = launch_of(os.environ)
    check_fits(recipe, launch.kind)
    check_precision(recipe, os.environ)
    if launch.kind in ("zero1", "zero2"):
        _check_deepspeed_can_start()
    arguments: dict[str, Any] = {}
    if recipe.sharding.timeout_minutes is not None:
        timeout = timedelta(minutes=recipe.sharding.timeout_minutes)
        arguments["kwargs_handlers"] = [InitProcessGroupKwargs(timeout=timeout)]
    with signals_end_at_once():
        accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            log_with=(list(recipe.trackers) or None) if tracker_folder is not None else None,
            project_dir=str(tracker_folder) if tracker_folder is not None else None,
            **arguments,
        )
    _check_took_effect(accelerator, launch)
    _check_processes_met(accelerator.num_processes, accelerator.device.type, os.environ)
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
    is_zero = launch.kind in ("zero1", "zero2")
    if is_zero and accelerator.distributed_type is not DistributedType.DEEPSPEED:
        raise _no_deepspeed_here()


def _check_processes_met(num_processes: int, device: str, environment: Mapping[str, str]) -> None:
    """Refuses processes that do not know of each other: each would train, and save, by itself.

    Args:
        num_processes: that accelerate sees.
        device: where it trains.
        environment: launchers set LOCAL_RANK and WORLD_SIZE.
    Raises:
        DistillensError: accelerate joins processes without a GPU only if it is told to.
    """
    started = environment.get("WORLD_SIZE", "1")
    if "LOCAL_RANK" not in environment or not started.isdecimal() or num_processes > 1:
        return
    if int(started) > 1:
        raise DistillensError(
            f"the launcher started {started} processes, but accelerate joins none of them "
            f"({device}), so each would train alone; without GPUs set ACCELERATE_USE_CPU=true "
            "before the launcher's command, or start one process"
        )


def _check_deepspeed_can_start() -> None:
    """Without a GPU it would compile for minutes, and fail then."""
    if importlib.util.find_spec("deepspeed") is None:
        raise DistillensError(
            "accelerate is set up for DeepSpeed, which is not installed; pip install "
            '"distillens[deepspeed]", or launch with recipes/accelerate/fsdp2.yaml'
        )
    asked_for_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
    if not asked_for_cpu and not torch.accelerator.is_available():
        raise _no_deepspeed_here()


def _no_deepspeed_here() -> DistillensError:
    return DistillensError(
        "accelerate is set up for DeepSpeed, but there are no GPUs here, which it needs; launch "
        "with recipes/accelerate/ddp.yaml and ACCELERATE_USE_CPU=true, or start one process"
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
