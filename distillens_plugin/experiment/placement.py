"""Where a run's models are: whole on each device, in pieces, or the teacher on a device of its own.

Models are loaded on the CPU, hooks are set on them while they are whole, and then they go where
they belong: the student by `Accelerator.prepare` inside torchdistill's box, the teacher here.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn

from distillens_plugin.integrations.torchdistill.compat import staying_put
from distillens_plugin.recipe.schema.models import StudentSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.sharding.launch import launch_of
from distillens_plugin.sharding.units import make_blocks_the_units
from eval_harness.errors import DistillensError

_ONE_RANK_READS = "FSDP_CPU_RAM_EFFICIENT_LOADING"


@dataclass(frozen=True)
class Placement:
    """Where the models of a run are.

    Attributes:
        student_sharded, teacher_sharded: in pieces (FSDP2).
        teacher_device: another device than the accelerator's; None: the accelerator's.
        one_rank_reads: only the first process of a node reads weights that are to be sharded.
    """

    student_sharded: bool = False
    teacher_sharded: bool = False
    teacher_device: torch.device | None = None
    one_rank_reads: bool = False

    @property
    def moves_after_box(self) -> bool:
        """Whether a model is taken to pieces, or goes elsewhere, once the box is built."""
        apart = self.teacher_device is not None
        return self.student_sharded or self.teacher_sharded or apart

    @contextmanager
    def loading_teacher(self) -> Iterator[None]:
        """transformers reads a teacher that stays whole on every process."""
        with self._reading(everywhere=not self.teacher_sharded):
            yield

    @contextmanager
    def loading_student(self, spec: StudentSpec) -> Iterator[None]:
        """A student that is cut from another model is read on every process, for its blocks."""
        cut = spec.init is not None and spec.init.teacher is not None
        with self._reading(everywhere=cut):
            yield

    @contextmanager
    def _reading(self, *, everywhere: bool) -> Iterator[None]:
        if not (self.one_rank_reads and everywhere):
            yield
            return
        before = os.environ.pop(_ONE_RANK_READS)
        try:
            yield
        finally:
            os.environ[_ONE_RANK_READS] = before

    @contextmanager
    def in_box(
        self, teacher: nn.Module | None, student: nn.Module, accelerator: Accelerator
    ) -> Iterator[None]:
        """torchdistill builds its box within; the teacher then goes to its place."""
        with ExitStack() as stack:
            if self.student_sharded:
                make_blocks_the_units(accelerator, student)
                stack.enter_context(staying_put(student, accelerator.device))
            if teacher is not None and (self.teacher_sharded or self.teacher_device is not None):
                stack.enter_context(staying_put(teacher, accelerator.device))
            yield
        if teacher is not None and self.teacher_sharded:
            make_blocks_the_units(accelerator, teacher)
            fsdp2_prepare_model(accelerator, teacher)
        elif teacher is not None and self.teacher_device is not None:
            teacher.to(self.teacher_device)


def placement_of(recipe: Recipe, accelerator: Accelerator) -> Placement:
    """What the launcher and `sharding` say.

    Raises:
        DistillensError: there is no such device.
    """
    launch = launch_of(os.environ)
    wanted = recipe.sharding.teacher
    device = None
    if wanted not in (None, "sharded", "replicated"):
        device = torch.device(wanted)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise DistillensError(
                f"{recipe.where('sharding.teacher')}: found {wanted}, but there are "
                f"{torch.cuda.device_count()} GPUs here; name one of them, or cpu"
            )
        device = None if device == accelerator.device else device
    return Placement(
        student_sharded=launch.shards_models,
        teacher_sharded=launch.shards_models and wanted in (None, "sharded"),
        teacher_device=device,
        one_rank_reads=launch.one_rank_reads,
    )
