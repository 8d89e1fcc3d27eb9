"""torchdistill's box from a full configuration, and how many steps its epochs have."""

import math
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torchdistill.core.distillation import DistillationBox
from torchdistill.core.training import TrainingBox
from torchdistill.datasets.util import build_data_loader

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.data.packing import PackedDataset
from distillens_plugin.data.streaming import StreamedDataset
from distillens_plugin.losses.box import Box

TrainingRows = InstructionDataset | PackedDataset


def build_box(
    form: dict[str, Any],
    teacher: nn.Module | None,
    student: nn.Module,
    train: TrainingRows | StreamedDataset,
    accelerator: Accelerator,
) -> Box:
    """torchdistill's box for a full form. We validate ourselves, so it gets no loader for that."""
    config = {**form["train"], "val_data_loader": {}}
    shared = {
        "dataset_dict": {"train": train},
        "train_config": config,
        "device": accelerator.device,
        "device_ids": [accelerator.local_process_index],
        "distributed": accelerator.num_processes > 1,
        "lr_factor": 1.0,
        "accelerator": accelerator,
    }
    if teacher is None:
        return TrainingBox(model=student, **shared)
    return DistillationBox(teacher_model=teacher, student_model=student, **shared)


def steps_per_epoch(
    loader_form: dict[str, Any],
    train: TrainingRows,
    accelerator: Accelerator,
    *,
    grad_accum_step: int,
) -> int:
    """Optimiser steps of an epoch, with the batches dealt over the ranks as accelerate does.

    Args:
        loader_form: the full form's `train_data_loader`.
    """
    loader = build_data_loader(train, loader_form, accelerator.num_processes > 1, accelerator)
    dealt = prepare_data_loader(
        loader,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        put_on_device=False,
    )
    return math.ceil(len(dealt) / grad_accum_step)
