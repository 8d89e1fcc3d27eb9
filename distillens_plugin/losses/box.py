"""The parts of torchdistill's boxes that we use, as a type: torchdistill itself has none."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Loader(Protocol):
    """Batches as `(inputs, targets, *more)`; torch's DataLoader is one."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class Box(Protocol):
    """A DistillationBox, or a TrainingBox.

    Attributes:
        criterion: a loss of the high-level registry, ours or someone else's.
        model: only on a TrainingBox, which lacks the student's and teacher's attributes.
        student_model, teacher_model, teacher_updatable, teacher_forward_proc: only on a
            DistillationBox.
        student_io_dict, teacher_io_dict: what the hooks of a model's modules recorded, by module
            path; only on a DistillationBox.
        loss_optimizer: of what the loss trains beside a model in pieces, else None or not there
            (`trained_parameters.adopt`).
        grad_accum_step: batches per accumulation window.
        max_grad_norm: None leaves gradients unclipped.
        scheduling_step: 0 steps the schedule once per epoch rather than once per step.
    """

    accelerator: Accelerator | None
    criterion: nn.Module
    optimizer: Optimizer
    loss_optimizer: Optimizer | None
    lr_scheduler: LRScheduler | None
    train_data_loader: Loader
    grad_accum_step: int
    stage_grad_count: int
    scheduling_step: int
    max_grad_norm: float | None
    pre_epoch_process: Callable[..., None]
    post_epoch_process: Callable[..., None]
    forward_process: Callable[..., Tensor]
    model: nn.Module
    student_model: nn.Module
    teacher_model: nn.Module
    teacher_updatable: bool
    teacher_forward_proc: Callable[..., Any]
    student_io_dict: dict[str, dict[str, Any]]
    teacher_io_dict: dict[str, dict[str, Any]]
    get_teacher_output: Callable[..., Any]


def trained_model(box: Box) -> nn.Module:
    """The (wrapped) model that a DistillationBox or a TrainingBox trains."""
    return box.student_model if hasattr(box, "student_model") else box.model
