"""What the lens on any of TRL's trainers does the same way: refusals, attaching, the log."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from distillens_plugin.attached.attached_lens import AttachedLens
from distillens_plugin.integrations.transformers.arguments import (
    DistillLensArguments,
    arguments_or_default,
)
from distillens_plugin.integrations.transformers.refusals import check_trainer
from distillens_plugin.integrations.transformers.sharding import find_lens, shard_teacher
from distillens_plugin.integrations.transformers.teacher import is_to_be_sharded
from distillens_plugin.integrations.trl.token_averages import TokenAverages
from eval_harness.errors import DistillensError


def check_before_loading(
    trainer: Trainer,
    initialise: Callable[..., None],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    distillens: DistillLensArguments | None,
) -> None:
    """Refuses what would only show after TRL has loaded the models, or changed them.

    Args:
        trainer: before its initialisation.
        initialise: the trainer's own `__init__`, which `args` and `kwargs` are for.
    Raises:
        DistillensError: the teacher does not run here, Liger's kernels are to replace layers, or
            cross-entropy is to teach the student its own answers.
    """
    who = type(trainer).__name__
    given = dict(zip(_positions(initialise), args, strict=False)) | dict(kwargs)
    teacher, config = given.get("teacher_model"), given.get("args")
    url = getattr(config, "teacher_model_server_url", None)
    if url is not None:
        raise DistillensError(
            f"{who}: teacher_model_server_url = {url!r}, but a server gives no layers of the "
            "teacher to compare; give teacher_model, a model or its path"
        )
    if teacher is None:
        raise DistillensError(
            f"{who}: teacher_model is None, and the lens reads the teacher's layers; give a model "
            "or its path"
        )
    if getattr(config, "use_liger_kernel", False):
        raise DistillensError(
            f"{who}: use_liger_kernel, which patches layers that the lens reads; leave it out: the "
            "lens makes no logits for the whole vocabulary either"
        )
    # GKD's share of steps on them; DistillationTrainer has nothing else.
    own_share = getattr(config, "lmbda", 1.0)
    if (weight := arguments_or_default(distillens).cross_entropy) and own_share > 0:
        raise DistillensError(
            f"{who}: cross_entropy = {weight}, which would teach the student its own sampled "
            "answers; leave it out, or train on the dataset's alone (GKD with lmbda 0)"
        )


def _positions(initialise: Callable[..., None]) -> list[str]:
    """The names of its positional parameters; TRL's, where a subclass hands on whatever it gets."""
    parameters = inspect.signature(initialise).parameters.values()
    named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return named or ["model", "teacher_model", "args"]


class LensOfTrainer:
    """The lens of a trainer whose models are loaded, and what it saw since the last log.

    Args:
        trainer: after its own initialisation.
        distillens: None is `DistillLensArguments()`.
    Raises:
        DistillensError: settings of the trainer that the lens does not honour, or arguments that
            do not fit the models.
    """

    def __init__(self, trainer: Trainer, distillens: DistillLensArguments | None) -> None:
        arguments = arguments_or_default(distillens)
        check_trainer(trainer, uses_own_loss=True)
        check_sharding(trainer)
        weight = arguments.trainer_loss
        self.trainer_loss = 1.0 if weight is None else weight
        student, teacher, accelerator = trainer.model, trainer.teacher_model, trainer.accelerator
        for model in (student, teacher):
            find_lens(model, accelerator)
        self.attached = AttachedLens(student, teacher, **arguments.attached_lens_options())
        if is_to_be_sharded(teacher, accelerator):
            shard_teacher(teacher, accelerator)
            # TRL has made it known to accelerate, which would look for the student's gradients in
            # it when it clips them.
            accelerator._models = [model for model in accelerator._models if model is not teacher]
        self._averages: dict[str, TokenAverages] = defaultdict(TokenAverages)

    def added_to(
        self,
        own: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None,
        *,
        mode: str,
    ) -> Tensor:
        """The trainer's own loss with the lens's terms, divided by the same count.

        Args:
            own: 0-d.
            labels: [B, T], -100 where nothing is supervised.
            mode: train or eval, as TRL keeps its metrics.
        """
        loss = self.attached.loss(labels, num_items_in_batch)
        self._averages[mode].add(
            self.attached.values,
            num_supervised=(labels[:, 1:] != -100).sum(),
            divided_by=num_items_in_batch,
        )
        return loss + self.trainer_loss * own.to(loss.device) if self.trainer_loss else loss

    def log_into(
        self, metrics: dict[str, dict[str, list[float]]], accelerator: Any, *, mode: str
    ) -> None:
        """Puts the averages since the mode's last call into the metrics that TRL is about to log.

        Args:
            mode: that is logged. An evaluation between two logs of the training takes nothing of
                the latter's.
        """
        for name, value in self._averages[mode].take(accelerator).items():
            metrics[mode][name] = [value]


def check_sharding(trainer: Trainer) -> None:
    """Refuses ways of sharding that TRL's trainers with the lens do not have.

    Raises:
        DistillensError: DeepSpeed, or tools with a student in pieces.
    """
    if trainer.is_deepspeed_enabled:
        raise DistillensError(
            f"{type(trainer).__name__}: DeepSpeed, with which the lens was not tried in TRL's "
            "trainers; use FSDP2 (recipes/accelerate/fsdp2.yaml), or DDP"
        )
    if trainer.accelerator.is_fsdp2 and getattr(trainer, "tools", None):
        raise DistillensError(
            f"{type(trainer).__name__}: tools with a student in pieces (FSDP2), of which every "
            "process must generate as often as the others; leave them out, or use DDP"
        )


class LogsLens:
    """What all of TRL's trainers with the lens share; each sets `_lens_of_trainer`."""

    _lens_of_trainer: LensOfTrainer

    @property
    def lens(self) -> AttachedLens:
        """The lens on the two models."""
        return self._lens_of_trainer.attached

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with the terms among its metrics."""
        trainer: Any = self
        # As TRL finds out what it logs.
        mode = "train" if trainer.model.training else "eval"
        self._lens_of_trainer.log_into(trainer._metrics, trainer.accelerator, mode=mode)
        super().log(logs, start_time)  # type: ignore[misc]


def completion_labels(inputs: dict[str, Tensor]) -> Tensor:
    """[B, T] labels of DistillationTrainer's prompts and completions: what the student wrote.

    Prompts are padded on the left and completions on the right, so the two meet. What tools wrote
    is not supervised.
    """
    mask = inputs["completion_mask"]
    if "tool_mask" in inputs:
        mask = mask * inputs["tool_mask"]
    written = inputs["completion_ids"].masked_fill(mask == 0, -100)
    return torch.cat([torch.full_like(inputs["prompt_ids"], -100), written], dim=1)
