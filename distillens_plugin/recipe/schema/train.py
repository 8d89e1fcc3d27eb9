"""The recipe's train section: torchdistill's own keys, with what can be derived left out."""

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from distillens_plugin.recipe.schema.base import (
    BelowOne,
    Count,
    FewOrNone,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    Range,
    Strict,
    complain,
    problem,
)
from distillens_plugin.recipe.schema.criterion import Criterion, check_own_key

_SCHEDULES = ("cosine", "linear", "constant")
_ADAMW = ("AdamW", "distillens.adamw")


class LoaderKwargs(Strict):
    """Of torch's DataLoader."""

    batch_size: Count = Field(description="rows per process and batch")
    num_workers: FewOrNone = Field(default=0, description="loading processes")
    pin_memory: bool = Field(default=False, description="faster copies to a GPU")
    drop_last: bool = Field(default=False, description="leave out a last batch that is not full")


class Sampler(Strict):
    """torchdistill's sampler entry, for an order of your own."""

    class_or_func: Any = Field(description="!import_get of a torch.utils.data sampler")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="its parameters")


class BatchSampler(Strict):
    """torchdistill's batch sampler entry."""

    key: str = Field(description="distillens.length_grouped, or one that torchdistill knows")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="its parameters")


class DataLoader(Strict):
    """A data loader; batches are grouped by length unless a sampler is given."""

    kwargs: LoaderKwargs = Field(description="of torch's DataLoader")
    sampler: Sampler | None = Field(
        default=None, description="an order of your own instead of batches of like length"
    )
    batch_sampler: BatchSampler | None = Field(
        default=None,
        description="another way to form batches; distillens.length_grouped if not given",
    )
    collate_fn: str = Field(
        default="distillens.collate", description="torchdistill's key of the collation"
    )


class ValidationKwargs(Strict):
    """What can be chosen of the validation loader."""

    batch_size: Count | None = Field(
        default=None, description="rows per process and batch; that of training if not given"
    )


class ValidationLoader(Strict):
    """The validation loader, in which nothing but its batch size is a matter of choice."""

    kwargs: ValidationKwargs = Field(
        default_factory=ValidationKwargs, description="of torch's DataLoader"
    )


class Optimizer(Strict):
    """torchdistill's optimizer entry."""

    key: str = Field(
        default="AdamW",
        description="AdamW (without decay on biases and norms), or another optimizer that "
        "torchdistill knows",
    )
    kwargs: dict[str, Any] = Field(description="lr, weight_decay and so on")
    max_grad_norm: Positive | None = Field(
        default=None, description="clip the gradient's norm; null: no clipping"
    )
    grad_accum_step: Count = Field(default=1, description="batches per optimiser step")

    @field_validator("kwargs")
    @classmethod
    def _adamw(cls, kwargs: dict[str, Any], info: Any) -> dict[str, Any]:
        key = info.data.get("key")
        if key in _ADAMW:
            AdamWKwargs.model_validate(kwargs)
            return {name: value for name, value in kwargs.items() if value is not None}
        if "lr" in kwargs:
            LearningRate.model_validate({"lr": kwargs["lr"]})
        return kwargs

    @field_validator("key")
    @classmethod
    def _known_key(cls, key: str) -> str:
        check_own_key(key, _ADAMW, "optimizer")
        return key

    @property
    def is_adamw(self) -> bool:
        """Ours, with its rule for weight decay."""
        return self.key in _ADAMW


class LearningRate(Strict):
    """Checked for every optimizer."""

    lr: Positive = Field(description="highest learning rate")


class AdamWKwargs(LearningRate):
    """Parameters of AdamW."""

    weight_decay: NonNegative = Field(
        default=0.01, description="on everything but biases and norms"
    )
    betas: list[BelowOne] = Field(
        default=[0.9, 0.999], description="decay of the two moving averages"
    )
    eps: Positive = Field(default=1e-8, description="added to the denominator")

    @field_validator("betas")
    @classmethod
    def _two(cls, betas: list[float]) -> list[float]:
        if len(betas) != 2:
            problem(betas, "two numbers")
        return betas


class ScheduleKwargs(Strict):
    """Parameters of cosine, linear and constant."""

    min_lr: NonNegative | None = Field(default=None, description="where cosine and linear end (0)")
    warmup_steps: NonNegativeInt | None = Field(
        default=None, description="optimiser steps of linear warm-up; or warmup_ratio"
    )
    warmup_ratio: Fraction | None = Field(
        default=None, description="share of all steps for the warm-up; or warmup_steps"
    )

    @model_validator(mode="after")
    def _one_warmup(self) -> "ScheduleKwargs":
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            complain("found warmup_steps and warmup_ratio, expected one; set the other to null")
        return self


class Scheduler(Strict):
    """torchdistill's scheduler entry."""

    key: str = Field(
        default="constant",
        description="cosine, linear, constant, or one that torchdistill knows (stepped per "
        "optimiser step)",
    )
    kwargs: dict[str, Any] = Field(default_factory=dict, description="of the schedule")

    @field_validator("key")
    @classmethod
    def _known_key(cls, key: str) -> str:
        plain = key.removeprefix("distillens.")
        if plain in _SCHEDULES:
            return plain
        check_own_key(plain, _SCHEDULES, "schedule")
        if not key[:1].isupper():
            problem(key, f"one of {', '.join(_SCHEDULES)}, or a scheduler class such as StepLR")
        return key

    @field_validator("kwargs")
    @classmethod
    def _own_kwargs(cls, kwargs: dict[str, Any], info: Any) -> dict[str, Any]:
        key = info.data.get("key")
        if key in _SCHEDULES:
            ScheduleKwargs.model_validate(kwargs)
            if key == "constant" and kwargs.get("min_lr") is not None:
                complain(
                    "the constant schedule ends where it is; delete it, or use cosine or linear",
                    at=("min_lr",),
                )
            return {name: value for name, value in kwargs.items() if value is not None}
        return kwargs

    @property
    def is_own(self) -> bool:
        """One of cosine, linear and constant."""
        return self.key in _SCHEDULES


class Hooks(Strict):
    """torchdistill's forward_hook: module paths whose input or output is kept."""

    input: list[str] = Field(default_factory=list, description="module paths whose input is kept")
    output: list[str] = Field(default_factory=list, description="module paths whose output is kept")


class BoxModel(Strict):
    """torchdistill's settings of one model, merged over what the runner derives."""

    forward_hook: Hooks | None = Field(
        default=None, description="further module paths; those of the layers are filled in"
    )
    forward_proc: str | None = Field(
        default=None, description="torchdistill's key; distillens.forward"
    )
    requires_grad: bool | None = Field(default=None, description="false for the teacher, true else")
    frozen_modules: list[str] | None = Field(
        default=None, description="module paths that are not trained"
    )


class VllmServer(Strict):
    """A running vLLM server that samples in the student's place."""

    base_url: str = Field(description="such as http://localhost:8000")
    sync_every: Count = Field(
        default=1,
        description="optimiser steps between two updates of the server's weights, from each "
        "epoch's start; 1: always fresh",
    )
    weights_dir: str | None = Field(
        default=None,
        description="folder through which the weights go, under one path here and at the server; "
        "null: the system's temporary folder",
    )
    timeout_s: Positive = Field(
        default=600.0, description="longest wait for one answer, repeated tries included, seconds"
    )

    @field_validator("base_url")
    @classmethod
    def _url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            problem(url, "an address such as http://localhost:8000")
        return url

    @field_validator("weights_dir")
    @classmethod
    def _folder(cls, folder: str | None) -> str | None:
        if folder is not None and not os.path.isdir(folder):
            problem(folder, "a folder that exists")
        return folder


class OnPolicy(Strict):
    """Answers that the student samples while it is trained, in place of some references."""

    share: Fraction = Field(
        default=0.5, description="share of the rows whose answer is sampled; adaptive: at the start"
    )
    schedule: Literal["fixed", "adaptive"] = Field(
        default="fixed",
        description="keep the share, or raise it when the validation loss rises (DistiLLM)",
    )
    step: Fraction = Field(default=0.1, description="adaptive: how much the share is raised")
    tolerance: NonNegative = Field(
        default=0.1, description="adaptive: by how much the validation loss must have risen"
    )
    temperature: Positive = Field(default=1.0, description="of sampling")
    top_p: Annotated[float, AfterValidator(Range(0, 1, open_low=True))] = Field(
        default=1.0, description="of sampling; 1 is off"
    )
    max_new_tokens: Count | None = Field(
        default=None, description="longest answer, in tokens; null: what max_length leaves"
    )
    server: VllmServer | None = Field(
        default=None, description="sample through a vLLM server; null: through transformers"
    )

    @model_validator(mode="after")
    def _samples_something(self) -> "OnPolicy":
        if self.schedule == "fixed" and self.share == 0:
            complain(
                "found a fixed share of 0, which samples nothing; raise it, take schedule: "
                "adaptive, or delete on_policy",
                at=("share",),
            )
        return self


class Train(Strict):
    """What torchdistill's box reads."""

    num_epochs: Count | None = Field(default=None, description="run length in epochs; or num_steps")
    num_steps: Count | None = Field(
        default=None, description="run length in optimiser steps; or num_epochs"
    )
    train_data_loader: DataLoader = Field(description="the training loader")
    val_data_loader: ValidationLoader = Field(
        default_factory=ValidationLoader, description="the validation loader"
    )
    optimizer: Optimizer = Field(description="the optimizer")
    scheduler: Scheduler = Field(default_factory=Scheduler, description="of the learning rate")
    criterion: Criterion = Field(description="the loss")
    teacher: BoxModel | None = Field(
        default=None, description="further torchdistill settings of the teacher"
    )
    student: BoxModel | None = Field(
        default=None, description="further torchdistill settings of the student"
    )
    model: BoxModel | None = Field(default=None, description="the same for models.model")
    on_policy: OnPolicy | None = Field(
        default=None, description="let the student answer some of the prompts itself (GKD)"
    )
    best_by: Literal["validation_loss", "rougeL"] = Field(
        default="validation_loss", description="what the best model is chosen by, each epoch"
    )

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.num_epochs is None) == (self.num_steps is None):
            found = "neither" if self.num_epochs is None else "both"
            complain(
                f"found {found} of num_epochs and num_steps, expected one"
                + ("; set the other to null" if found == "both" else "")
            )
        return self
