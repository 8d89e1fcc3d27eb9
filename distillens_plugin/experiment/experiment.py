"""What a built experiment is."""

from dataclasses import dataclass, field

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.data.streaming import StreamedDataset
from distillens_plugin.experiment.layer_choice import Record
from distillens_plugin.lens.discovery import Anatomy
from distillens_plugin.losses.box import Box
from distillens_plugin.models.states_only import Readout
from distillens_plugin.recipe.schema.recipe import Recipe


@dataclass
class Experiment:
    """All that a run needs, built in the order in which mistakes are cheapest to find.

    Attributes:
        train: all training rows, or the first ones of a stream.
        stream: with `datasets.train.streaming`.
        box: torchdistill's DistillationBox, or its TrainingBox if the recipe has no teacher.
        teacher_anatomy: None without a teacher.
        validation: None if the recipe has no validation data.
        num_steps: optimiser steps of the whole run.
        steps_per_epoch: optimiser steps of one epoch.
        readout: what was loaded of the teacher, if not all of it.
        layer_records: how the layers of the terms were chosen that measure theirs, by term; the
            recipe has the pairs.
    """

    recipe: Recipe
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    train: InstructionDataset
    stream: StreamedDataset | None
    validation: InstructionDataset | None
    teacher: nn.Module | None
    student: nn.Module
    student_anatomy: Anatomy
    teacher_anatomy: Anatomy | None
    box: Box
    num_steps: int
    steps_per_epoch: int
    readout: Readout | None = None
    layer_records: dict[str, Record] = field(default_factory=dict)
