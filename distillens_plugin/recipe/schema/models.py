"""The recipe's models: where their weights come from, and how they are adapted."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from distillens_plugin.recipe.schema.base import (
    BelowOne,
    Count,
    PathName,
    Positive,
    Strict,
    complain,
)


class Lora(Strict):
    """Low-rank adapters through peft; the rest of the model stays frozen."""

    r: Count = Field(default=8, description="rank")
    alpha: Positive = Field(default=32, description="scale is alpha / r")
    dropout: BelowOne = Field(default=0.1, description="dropout before the adapter")
    target_modules: list[str] | str | None = Field(
        default=None,
        description="names of the modules to adapt; null takes peft's choice for the model. If "
        "only one of two tied modules is adapted, they are saved untied",
    )


class Init(Strict):
    """A student that starts without pretrained weights: from_teacher_layers or config."""

    from_teacher_layers: list[int] | None = Field(
        default=None,
        description="start from these blocks of the teacher (0 is the first) and its embeddings, "
        "final norm and head",
    )
    teacher: PathName | None = Field(
        default=None,
        description="folder or Hub name of the model to take the blocks from, in a run without "
        "teacher_model",
    )
    config: dict[str, Any] | None = Field(
        default=None,
        description="a transformers config with its model_type, for seeded random weights",
    )

    @model_validator(mode="after")
    def _one_form(self) -> "Init":
        if (self.from_teacher_layers is None) == (self.config is None):
            found = "neither" if self.config is None else "both"
            complain(f"found {found}, expected one of from_teacher_layers and config")
        blocks = self.from_teacher_layers
        if blocks is not None and (not blocks or min(blocks) < 0 or sorted(set(blocks)) != blocks):
            complain(
                f"found {blocks}, expected block numbers from 0 up in ascending order, each once",
                at=("from_teacher_layers",),
            )
        if self.teacher is not None and blocks is None:
            complain(
                "found a model to cut from without from_teacher_layers; delete it, or add them",
                at=("teacher",),
            )
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            complain(
                "missing; expected a transformers model type such as gpt2",
                at=("config", "model_type"),
            )
        return self


class ModelSpec(Strict):
    """What teacher and student have in common."""

    revision: str | None = Field(default=None, description="branch, tag or commit on the Hub")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="type of the weights in memory"
    )
    tokenizer: PathName | None = Field(
        default=None,
        description="folder or Hub name of the tokenizer, if it is not the model's own",
    )
    attn_implementation: str | None = Field(
        default=None,
        description="transformers' attention implementation, e.g. sdpa or flash_attention_2",
    )
    trust_remote_code: bool = Field(
        default=False, description="run the model repository's own code; needs --trust-recipe"
    )
    adapter: PathName | None = Field(
        default=None, description="peft adapter (folder or Hub name), merged in after loading"
    )


class TeacherSpec(ModelSpec):
    """The frozen teacher."""

    name_or_path: PathName = Field(description="folder or Hub name")

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer comes from."""
        return self.tokenizer or self.name_or_path


class StudentSpec(ModelSpec):
    """The model that is trained."""

    name_or_path: PathName | None = Field(
        default=None, description="folder or Hub name; alternatively, set init"
    )
    init: Init | None = Field(default=None, description="start without pretrained weights")
    lora: Lora | None = Field(default=None, description="train low-rank adapters only")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass to save memory"
    )

    @property
    def cut_source(self) -> TeacherSpec:
        """The model of `init.teacher`, loaded as this one would be."""
        assert self.init is not None  # for a student that names one
        assert self.init.teacher is not None
        return TeacherSpec(
            name_or_path=self.init.teacher,
            revision=self.revision,
            dtype=self.dtype,
            attn_implementation=self.attn_implementation,
            trust_remote_code=self.trust_remote_code,
        )

    @field_validator("lora", mode="before")
    @classmethod
    def _bare_lora(cls, value: Any) -> Any:
        return {} if value is True else value

    @model_validator(mode="after")
    def _one_start(self) -> "StudentSpec":
        if (self.name_or_path is None) == (self.init is None):
            found = "neither" if self.init is None else "both"
            complain(
                f"found {found} of name_or_path and init, expected one: weights to load, or a "
                "start without them; set the other to null"
            )
        if self.init is not None and self.adapter is not None:
            complain(
                "found an adapter with init, but an adapter needs the weights of name_or_path; "
                "delete it, or set name_or_path instead of init",
                at=("adapter",),
            )
        return self


class Models(Strict):
    """teacher_model and student_model for distillation; model alone for fine-tuning.

    A student_model without a teacher is the same as a model, so that a fragment can turn a
    distillation recipe into fine-tuning with `teacher_model: null`.
    """

    teacher_model: TeacherSpec | None = Field(default=None, description="the frozen teacher")
    student_model: StudentSpec | None = Field(default=None, description="the student")
    model: StudentSpec | None = Field(
        default=None, description="the model of a run without a teacher"
    )

    @model_validator(mode="after")
    def _one_form(self) -> "Models":
        pair = (self.teacher_model is not None, self.student_model is not None)
        if self.model is not None and any(pair):
            complain(
                "found model with teacher_model or student_model, expected either model alone or "
                "the other two"
            )
        if self.model is None and not any(pair):
            complain("found no model, expected teacher_model and student_model, or model alone")
        if pair == (True, False):
            complain(
                "missing; add the student of models.teacher_model, or set models.model alone for a "
                "run without a teacher",
                at=("student_model",),
            )
        return self

    @property
    def trained(self) -> StudentSpec:
        """The student, or the model of a run without a teacher."""
        spec = self.model if self.student_model is None else self.student_model
        assert spec is not None  # _one_form
        return spec

    @property
    def trusts_trained_code(self) -> bool:
        """Whether the trained model may run code of its own, or of the teacher it is cut from."""
        spec, teacher = self.trained, self.teacher_model
        if spec.init is None or spec.init.config is not None or spec.init.teacher is not None:
            return spec.trust_remote_code
        return spec.trust_remote_code or (teacher is not None and teacher.trust_remote_code)

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer of the data comes from: the trained model's, else the teacher's."""
        spec = self.trained
        name = spec.tokenizer or spec.name_or_path
        if name is None and spec.init is not None:
            name = spec.init.teacher
        if name is None and self.teacher_model is not None:
            name = self.teacher_model.tokenizer_name
        assert name is not None  # Recipe._consistent
        return name
