"""A Trainer whose student is in pieces (FSDP2): the teacher goes the same way.

The Trainer shards the student when it begins to train or evaluate; by then the lens has seen both
models whole.
"""

import os

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn

from distillens_plugin.lens.known_lenses import lens_of, remember
from distillens_plugin.sharding.units import make_blocks_the_units
from eval_harness.errors import DistillensError

_ONE_RANK_READS = "FSDP_CPU_RAM_EFFICIENT_LOADING"


def find_lens(model: nn.Module, accelerator: Accelerator) -> None:
    """Finds the lens of a model that is about to be sharded; every process calls it.

    With `cpu_ram_efficient_loading` only the first process has weights, and tells the others.

    Raises:
        DistillensError: the lens cannot read the model.
    """
    if not (accelerator.is_fsdp2 and accelerator.state.fsdp_plugin.cpu_ram_efficient_loading):
        lens_of(model)
        return
    found: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = lens_of(model).anatomy
        except Exception as error:
            # The others wait for an answer.
            found[1] = error if isinstance(error, DistillensError) else DistillensError(repr(error))
    broadcast_object_list(found)
    anatomy, failure = found
    if isinstance(failure, DistillensError):
        raise failure
    if not accelerator.is_main_process:
        remember(model, anatomy)  # type: ignore[arg-type]


def shard_teacher(teacher: nn.Module, accelerator: Accelerator) -> None:
    """Puts a whole teacher into pieces as accelerate does with the student; its lens is known.

    The plugin then is as it was: its blocks are the student's, or those that the user names.
    """
    # What is trained would be kept in float32, and gradients of it nobody reads.
    teacher.requires_grad_(False)
    plugin = accelerator.state.fsdp_plugin
    before = plugin.auto_wrap_policy, plugin.transformer_cls_names_to_wrap
    make_blocks_the_units(accelerator, teacher)
    try:
        fsdp2_prepare_model(accelerator, teacher)
    finally:
        plugin.auto_wrap_policy, plugin.transformer_cls_names_to_wrap = before


def refuse_empty(teacher: nn.Module) -> None:
    """Raises if a teacher that stays whole was read by one process of each machine alone."""
    if os.environ.get(_ONE_RANK_READS, "false").lower() in ("true", "1"):
        raise DistillensError(
            f"the teacher {type(teacher).__name__} has a device_map and stays whole, but "
            f"{_ONE_RANK_READS} is on, so that only one process of a machine has its weights; load "
            "it without device_map, or set cpu_ram_efficient_loading to false"
        )
