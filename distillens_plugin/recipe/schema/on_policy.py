"""The recipe's on_policy section: answers that the student samples during training."""

import os
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from distillens_plugin.recipe.schema.base import (
    Count,
    Fraction,
    NonNegative,
    PathName,
    Positive,
    Strict,
    complain,
    problem,
    within,
)


class VllmServer(Strict):
    """A running vLLM server that samples for the student."""

    base_url: str = Field(description="the server's address, such as http://localhost:8000")
    sync_every: Count = Field(
        default=1,
        description="optimiser steps between updates of the server's weights, counted from the "
        "start of each epoch; 1 samples from the current weights",
    )
    weights_dir: PathName | None = Field(
        default=None,
        description="folder that passes the weights to the server, with the same path on both "
        "sides; null uses the system's temporary folder",
    )
    timeout_s: Positive = Field(
        default=600.0, description="longest wait for one answer in seconds, including retries"
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
    """Answers that the student samples during training, in place of some references."""

    share: Fraction = Field(
        default=0.5,
        description="share of the rows whose answers are sampled (with adaptive, at the start)",
    )
    schedule: Literal["fixed", "adaptive"] = Field(
        default="fixed",
        description="fixed keeps the share, adaptive raises it when the validation loss rises "
        "(DistiLLM)",
    )
    step: Fraction = Field(default=0.1, description="adaptive: how much to raise the share")
    tolerance: NonNegative = Field(
        default=0.1, description="adaptive: how much the validation loss must have risen"
    )
    temperature: Positive = Field(default=1.0, description="sampling temperature")
    top_p: Annotated[float, within(0, 1, open_low=True)] = Field(
        default=1.0, description="sample from this share of the probability mass; 1 is all of it"
    )
    max_new_tokens: Count | None = Field(
        default=None, description="longest answer, in tokens; null: as long as max_length allows"
    )
    server: VllmServer | None = Field(
        default=None, description="sample through a vLLM server; null samples with transformers"
    )

    @model_validator(mode="after")
    def _is_adaptive(self) -> "OnPolicy":
        for key in ("step", "tolerance"):
            if self.schedule == "fixed" and key in self.model_fields_set:
                complain(
                    "found with schedule: fixed, which keeps the share; delete the key, or set "
                    "schedule: adaptive",
                    at=(key,),
                )
        return self

    @model_validator(mode="after")
    def _samples_something(self) -> "OnPolicy":
        if self.schedule == "fixed" and self.share == 0:
            complain(
                "found a fixed share of 0, which samples nothing; raise it, set schedule: "
                "adaptive, or delete on_policy",
                at=("share",),
            )
        return self
