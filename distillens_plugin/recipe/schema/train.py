"""The recipe's train section: torchdistill's own keys, without those that can be derived."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distillens_plugin.recipe.schema import torchdistill_names as theirs
from distillens_plugin.recipe.schema.base import Count, Strict, complain, within
from distillens_plugin.recipe.schema.by_steps import EarlyStopping, Interval
from distillens_plugin.recipe.schema.criterion import Criterion
from distillens_plugin.recipe.schema.loaders import DataLoader, ValidationLoader
from distillens_plugin.recipe.schema.names import FORWARD_PROC, NO_MODEL_LOSS
from distillens_plugin.recipe.schema.on_policy import OnPolicy
from distillens_plugin.recipe.schema.optimiser import Optimizer, Scheduler
from distillens_plugin.recipe.schema.terms import TERMS


class Hooks(Strict):
    """torchdistill's forward_hook: module paths whose input or output is kept."""

    input: list[str] = Field(default_factory=list, description="module paths whose input is kept")
    output: list[str] = Field(default_factory=list, description="module paths whose output is kept")


class BoxModel(Strict):
    """torchdistill's settings of one model, merged over what the runner derives."""

    forward_hook: Hooks | None = Field(
        default=None, description="further module paths; those of the layers are added"
    )
    forward_proc: Annotated[str, FORWARD_PROC.validator] | None = Field(
        default=None, description="torchdistill's key; distillens.forward if not given"
    )
    requires_grad: bool | None = Field(
        default=None, description="by default false for the teacher, true otherwise"
    )
    frozen_modules: list[str] | None = Field(
        default=None, description="module paths to leave untrained"
    )


class Train(Strict):
    """What torchdistill's box reads."""

    num_epochs: Count | None = Field(
        default=None, description="run length in epochs; alternatively, set num_steps"
    )
    num_steps: Count | None = Field(
        default=None, description="run length in optimiser steps; alternatively, set num_epochs"
    )
    steps_per_epoch: Count | None = Field(
        default=None,
        description="optimiser steps after which a run over a stream validates, saves and keeps "
        "its state; by default all",
    )
    train_data_loader: DataLoader = Field(description="the training loader")
    val_data_loader: ValidationLoader = Field(
        default_factory=ValidationLoader, description="the validation loader"
    )
    optimizer: Optimizer = Field(description="the optimizer")
    scheduler: Scheduler = Field(
        default_factory=Scheduler, description="the learning rate's schedule"
    )
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
    best_by: Literal["validation_loss", "rougeL", "rougeL_unicode"] = Field(
        default="validation_loss",
        description="score that picks the best model, at each evaluation; rougeL reads words of "
        "a-z and 0-9, rougeL_unicode those of any script",
    )
    eval_every: Interval | None = Field(
        default=None,
        description="optimiser steps between two evaluations, or a fraction of an epoch such as "
        "0.25; by default after each epoch. The last step is always evaluated",
    )
    save_every: Interval | None = Field(
        default=None,
        description="optimiser steps between two states (and models in last/), or a fraction of an "
        "epoch such as 0.25; by default after each epoch. The last step is always saved",
    )
    keep_last: Annotated[int, within(1, 2)] = Field(
        default=2,
        description="states kept: 2 for a newest that is damaged, 1 saves disk",
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="end the run when the score of best_by no longer improves"
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

    @model_validator(mode="after")
    def _our_terms_need_our_forward(self) -> "Train":
        """torchdistill's own forward procedures leave out what our terms read."""
        ours = [term.criterion.key for term in self.criterion.kwargs.sub_terms.values()]
        ours = [key for key in ours if key in TERMS]
        for role in ("teacher", "student", "model"):
            given: BoxModel | None = getattr(self, role)
            proc = given.forward_proc if given is not None else None
            if ours and proc in theirs.FORWARD_PROCS:
                complain(
                    f"found {proc}, with which {ours[0]} cannot work; expected one of "
                    f"{', '.join(FORWARD_PROC.own)}, or no forward_proc",
                    at=(role, "forward_proc"),
                )
        if ours and self.criterion.func2extract_model_loss in theirs.MODEL_LOSS_FUNCTIONS:
            complain(
                f"found {self.criterion.func2extract_model_loss}, which finds no loss in what our "
                "forward procedures return; delete it",
                at=("criterion", "func2extract_model_loss"),
            )
        return self

    @model_validator(mode="after")
    def _model_term_has_losses(self) -> "Train":
        function = self.criterion.func2extract_model_loss
        if self.criterion.kwargs.model_term is not None and function == NO_MODEL_LOSS:
            complain(
                f"found a factor for losses of the model, but {function} reads none; name a "
                "func2extract_model_loss of your own, or delete this",
                at=("criterion", "kwargs", "model_term"),
            )
        return self
