"""The recipe's keys: types, ranges, defaults, and one line of description each.

docs/recipe_keys.md is made from these descriptions. Importing this module loads no torch.
"""

from typing import Any, Literal, Protocol

from pydantic import Field, PrivateAttr, field_validator, model_validator

from distillens_plugin.recipe.schema.base import (
    Count,
    Few,
    PathName,
    Positive,
    Seed,
    Strict,
    complain,
)
from distillens_plugin.recipe.schema.by_steps import check_by_steps
from distillens_plugin.recipe.schema.data import DataSets
from distillens_plugin.recipe.schema.layers import PairedKwargs
from distillens_plugin.recipe.schema.models import Models
from distillens_plugin.recipe.schema.reporting import (
    Report,
    Samples,
    check_upload_keys,
    check_validation_terms,
)
from distillens_plugin.recipe.schema.sharding import Sharding, check_sharding
from distillens_plugin.recipe.schema.streaming import check_streaming
from distillens_plugin.recipe.schema.terms import LensKwargs
from distillens_plugin.recipe.schema.train import Train


class Dependency(Strict):
    """A module to import, which may register names with torchdistill."""

    name: str = Field(
        description="a module; any but distillens_plugin and torchdistill's needs --trust-recipe"
    )
    package: str | None = Field(default=None, description="package that a relative name starts at")


def dependency_entries(value: Any) -> Any:
    """Entries in full form: torchdistill also takes a single name, or names alone."""
    entries = [value] if isinstance(value, str | dict) else value
    if not isinstance(entries, list):
        return entries
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


class TeacherCache(Strict):
    """The teacher's hidden states, kept on disk instead of being computed again."""

    path: PathName = Field(description="folder of the cache")
    dtype: Literal["bfloat16", "int8"] = Field(
        default="bfloat16", description="type of the stored states"
    )
    max_gb: Positive | None = Field(default=None, description="maximum size in GB; null: no limit")
    teacher: Literal["auto", "states_only", "whole"] = Field(
        default="auto",
        description="what is loaded of the teacher: states_only, its final norm and head, enough "
        "for a full cache; whole; or auto, states_only if the cache is full",
    )


class Places(Protocol):
    """Where each key of a recipe came from: `recipe.loading.Source`."""

    name: str

    def locate(self, dotted: str) -> str: ...


class Recipe(Strict):
    """A whole recipe, checked."""

    dependencies: list[Dependency] = Field(
        default_factory=lambda: [Dependency(name="distillens_plugin")],
        description="modules to import first",
    )
    models: Models = Field(description="teacher_model and student_model, or model alone")
    datasets: DataSets = Field(description="the training and validation data")
    train: Train = Field(description="torchdistill's training configuration")
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        default="no", description="accelerate's autocast for the student"
    )
    seed: Seed = Field(default=10, description="seed of data order, dropout and random weights")
    output_dir: PathName | None = Field(
        default=None, description="folder for all output; runs/<recipe's name> if not given"
    )
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=list, description="experiment trackers, in addition to metrics.jsonl"
    )
    log_every: Count = Field(
        default=10, description="optimiser steps between two lines of metrics.jsonl"
    )
    validation_terms: bool | None = Field(
        default=None,
        description="also compute the terms against the teacher on the validation rows (val/kd, "
        "val/lens/1-2), for one teacher pass over them; null: where there are trackers, a teacher "
        "and no teacher_cache",
    )
    chunk_rows: Count | None = Field(
        default=None,
        description="rows at a time in the pass over the vocabulary, for all terms; null chooses "
        "by vocabulary and device",
    )
    samples: Samples = Field(default_factory=Samples, description="sample answers of the student")
    report: Report = Field(
        default_factory=Report,
        description="what the run measures of itself, for `distillens report`; false: nothing",
    )
    threads: Few | None = Field(default=None, description="CPU threads; null keeps torch's choice")
    teacher_cache: TeacherCache | None = Field(
        default=None, description="keep the teacher's states on disk"
    )
    sharding: Sharding = Field(
        default_factory=Sharding,
        description="several devices: what accelerate's configuration does not say",
    )
    resumable: bool = Field(
        default=True,
        description="keep weights and optimiser after each epoch (or train.save_every), so that "
        "--resume works; removed when the run is finished",
    )
    push_to_hub: str | None = Field(
        default=None,
        description="NAME or OWNER/NAME on the Hub, to which `best` is uploaded when the run ends",
    )
    hub_private: bool | None = Field(
        default=None,
        description="whether a repository that the upload makes is private; null: public, unless "
        "the organisation's default is private",
    )

    _source: Places | None = PrivateAttr(default=None)
    _plain: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator("dependencies", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return dependency_entries(value)

    @field_validator("trackers")
    @classmethod
    def _no_repeats(cls, trackers: list[str]) -> list[str]:
        if len(set(trackers)) < len(trackers):
            complain(f"found {trackers}, expected each tracker once")
        return trackers

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        self._check_teacher()
        self._check_on_policy()
        check_upload_keys(push_to_hub=self.push_to_hub, hub_private=self.hub_private)
        keeps_states = self.teacher_cache is not None
        check_streaming(self.datasets, self.train, keeps_states=keeps_states)
        has_validation = self.datasets.validation is not None
        if self.validation_terms:
            check_validation_terms(
                has_teacher=self.is_distillation,
                has_validation=has_validation,
                has_cache=keeps_states,
            )
        given = self.train.model_fields_set
        check_by_steps(given, has_validation=has_validation, resumable=self.resumable)
        check_sharding(self.sharding, has_teacher=self.is_distillation)
        init = self.models.trained.init
        if init is not None and not self.is_distillation:
            if init.from_teacher_layers is not None and init.teacher is None:
                complain(
                    "there is no teacher to cut the student from; expected init.teacher, or "
                    "models.teacher_model and models.student_model",
                    at=("models", self.trained_role, "init", "from_teacher_layers"),
                )
            if self.models.trained.tokenizer is None and init.teacher is None:
                complain(
                    "missing; a random model without a teacher needs the folder or Hub name of a "
                    "tokenizer",
                    at=("models", self.trained_role, "tokenizer"),
                )
        if self.datasets.validation is None and self.train.best_by != "validation_loss":
            complain(
                f"found {self.train.best_by} without datasets.validation, which has the rows to "
                "answer; add it, or use validation_loss",
                at=("train", "best_by"),
            )
        for role in ("teacher", "student", "model"):
            given = getattr(self.train, role)
            if (
                given is not None
                and getattr(self.models, f"{role}_model" if role != "model" else role) is None
            ):
                trained = self.trained_role.removesuffix("_model")
                other = f"teacher and train.{trained}" if self.is_distillation else trained
                complain(
                    f"the recipe has no such model; expected train.{other}", at=("train", role)
                )
        return self

    def _check_teacher(self) -> None:
        if self.is_distillation:
            return
        terms = self.train.criterion.teacher_terms()
        if terms:
            key = self.train.criterion.kwargs.sub_terms[terms[0]].criterion.key
            complain(
                f"{key} compares with a teacher, but the recipe has none; add models.teacher_model "
                "(beside models.student_model), or remove the term (set it to null) and use "
                "distillens.cross_entropy",
                at=("train", "criterion", "kwargs", "sub_terms", terms[0]),
            )
        if self.teacher_cache is not None:
            complain(
                "there is no teacher whose states could be kept; delete the key",
                at=("teacher_cache",),
            )

    def _check_on_policy(self) -> None:
        settings = self.train.on_policy
        if settings is None:
            return
        at: tuple[str, ...] = ("train", "on_policy")
        if not self.is_distillation:
            complain("there is no teacher to score the student's answers; delete the key", at=at)
        for name, term in self.train.criterion.kwargs.sub_terms.items():
            if term.criterion.key == "distillens.cross_entropy":
                complain(
                    "cross-entropy would teach the student its own sampled answers (on_policy); "
                    "remove the term (set it to null), or delete train.on_policy",
                    at=("train", "criterion", "kwargs", "sub_terms", name),
                )
        if self.teacher_cache is not None:
            complain(
                "the teacher's states depend on newly sampled answers (on_policy), so they cannot "
                "be kept; delete the key, or delete train.on_policy",
                at=("teacher_cache",),
            )
        if self.train.train_data_loader.collate_fn != "distillens.collate":
            complain(
                "on_policy needs distillens.collate; delete the key, or delete train.on_policy",
                at=("train", "train_data_loader", "collate_fn"),
            )
        if self.train.train_data_loader.packing:
            complain(
                "newly sampled answers (on_policy) have other lengths than the rows that were "
                "packed; delete the key, or delete train.on_policy",
                at=("train", "train_data_loader", "packing"),
            )
        if settings.schedule == "adaptive" and self.datasets.validation is None:
            complain(
                "found adaptive without datasets.validation, whose loss it follows; add it, or use "
                "fixed",
                at=(*at, "schedule"),
            )

    @property
    def is_distillation(self) -> bool:
        """Whether there is a teacher (torchdistill's DistillationBox, else its TrainingBox)."""
        return self.models.teacher_model is not None

    @property
    def validates_terms(self) -> bool:
        """Whether validation compares with the teacher too (`validation_terms`)."""
        if self.validation_terms is not None:
            return self.validation_terms
        return bool(self.trackers) and self.is_distillation and self.teacher_cache is None

    @property
    def trained_role(self) -> str:
        """The YAML name of the model that is trained: student_model or model."""
        return "model" if self.models.student_model is None else "student_model"

    @property
    def path(self) -> str:
        """The recipe file's name as given."""
        return self._source.name if self._source is not None else "recipe"

    def layer_terms(self) -> list[tuple[str, PairedKwargs]]:
        """Name and parameters of each term that compares layer pairs."""
        return list(self.train.criterion.layer_terms())

    def lens_terms(self) -> list[tuple[str, LensKwargs]]:
        """Name and parameters of each DistillLensLoss."""
        return list(self.train.criterion.lens_terms())

    def where(self, key_path: str) -> str:
        """`recipes/gpt2.yaml:23: train.criterion.key`, the start of errors about a key.

        Args:
            key_path: dotted, as for --set.
        """
        return self._source.locate(key_path) if self._source is not None else key_path

    def to_plain(self) -> dict[str, Any]:
        """The recipe's own keys as loaded: overrides in, paths resolved, no defaults."""
        return self._plain
