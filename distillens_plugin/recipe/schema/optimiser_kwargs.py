"""The parameters of this package's optimisers and schedules, and the tables of both."""

from pydantic import Field, field_validator, model_validator

from distillens_plugin.recipe.schema.base import (
    BelowOne,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    Strict,
    complain,
    problem,
)
from distillens_plugin.recipe.schema.entries import OwnName


class LearningRate(Strict):
    """The learning rate, checked for every optimizer."""

    lr: Positive = Field(description="peak learning rate")


class AdamWKwargs(LearningRate):
    """Parameters of AdamW."""

    weight_decay: NonNegative = Field(
        default=0.01, description="weight decay, on everything but biases and norms"
    )
    betas: list[BelowOne] = Field(
        default=[0.9, 0.999], description="decay rates of the two moving averages"
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

    min_lr: NonNegative | None = Field(
        default=None, description="final learning rate of cosine and linear; 0 if not given"
    )
    warmup_steps: NonNegativeInt | None = Field(
        default=None,
        description="linear warm-up in optimiser steps; alternatively, set warmup_ratio",
    )
    warmup_ratio: Fraction | None = Field(
        default=None,
        description="linear warm-up as a share of all steps; alternatively, set warmup_steps",
    )

    @model_validator(mode="after")
    def _one_warmup(self) -> "ScheduleKwargs":
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            complain("found warmup_steps and warmup_ratio, expected one; set the other to null")
        return self


class ConstantKwargs(ScheduleKwargs):
    """Parameters of the constant schedule, which has no final learning rate to set."""

    @field_validator("min_lr")
    @classmethod
    def _no_floor(cls, min_lr: float | None) -> float | None:
        if min_lr is not None:
            complain(
                "the constant schedule does not lower the learning rate; delete the key, or use "
                "cosine or linear"
            )
        return min_lr


_OPTIM = "distillens_plugin.integrations.torchdistill.optim"
# A new one is an entry here and the function that it names.
OPTIMIZERS = {"distillens.adamw": OwnName(f"{_OPTIM}:adamw", AdamWKwargs, short="AdamW")}
SCHEDULES = {
    "distillens.cosine": OwnName(f"{_OPTIM}:cosine", ScheduleKwargs, short="cosine"),
    "distillens.linear": OwnName(f"{_OPTIM}:linear", ScheduleKwargs, short="linear"),
    "distillens.constant": OwnName(f"{_OPTIM}:constant", ConstantKwargs, short="constant"),
}
