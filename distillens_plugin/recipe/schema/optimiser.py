"""The recipe's optimizer and the schedule of its learning rate."""

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from distillens_plugin.recipe.schema.base import Count, Positive, Strict
from distillens_plugin.recipe.schema.names import OPTIMIZER, SCHEDULER, Kind
from distillens_plugin.recipe.schema.optimiser_kwargs import LearningRate


def _checked(kind: Kind, kwargs: dict[str, Any], key: str | None) -> dict[str, Any]:
    """Checks the kwargs of one of ours; returns them unchanged but without those that are null."""
    own = kind.own_key(key) if key is not None else None
    parameters = kind.own[own].parameters if own is not None else None
    if parameters is None:
        return kwargs
    parameters.model_validate(kwargs)
    return {name: value for name, value in kwargs.items() if value is not None}


class Optimizer(Strict):
    """torchdistill's optimizer entry."""

    key: Annotated[str, OPTIMIZER.validator] = Field(
        default="AdamW",
        description="AdamW (no weight decay on biases and norms), or another optimizer that "
        "torchdistill knows",
    )
    kwargs: dict[str, Any] = Field(description="lr, weight_decay and so on")
    max_grad_norm: Positive | None = Field(
        default=None, description="clip the gradient to this norm; null: no clipping"
    )
    grad_accum_step: Count = Field(default=1, description="batches per optimiser step")

    @field_validator("kwargs")
    @classmethod
    def _kwargs(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        key = info.data.get("key")
        if "lr" in kwargs and (key is None or OPTIMIZER.own_key(key) is None):
            LearningRate.model_validate({"lr": kwargs["lr"]})
        return _checked(OPTIMIZER, kwargs, key)

    @property
    def own_key(self) -> str | None:
        """The registered key of one of this package (AdamW with its rule for weight decay)."""
        return OPTIMIZER.own_key(self.key)


class Scheduler(Strict):
    """torchdistill's scheduler entry."""

    key: Annotated[str, SCHEDULER.validator] = Field(
        default="constant",
        description="cosine, linear, constant, or one that torchdistill knows (advanced at each "
        "optimiser step)",
    )
    kwargs: dict[str, Any] = Field(default_factory=dict, description="the schedule's parameters")

    @field_validator("kwargs")
    @classmethod
    def _kwargs(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return _checked(SCHEDULER, kwargs, info.data.get("key"))

    @property
    def own_key(self) -> str | None:
        """The registered key of cosine, linear and constant."""
        return SCHEDULER.own_key(self.key)

    def warmup_steps(self, num_steps: int) -> int:
        """Optimiser steps until the learning rate has risen; 0 for schedules that are not ours.

        Args:
            num_steps: of the whole run.
        """
        if self.own_key is None:
            return 0
        ratio = self.kwargs.get("warmup_ratio")
        return self.kwargs.get("warmup_steps", 0) if ratio is None else round(ratio * num_steps)
