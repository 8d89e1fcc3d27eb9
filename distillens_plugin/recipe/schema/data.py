"""The recipe's data sets."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from distillens_plugin.data.columns import FIELDS
from distillens_plugin.recipe.schema.base import (
    Count,
    NonNegativeInt,
    PathName,
    Strict,
    complain,
    did_you_mean,
    problem,
)

# How rows become tokens: the validation set inherits these keys from the training set.
_INHERITED = (
    "newline",
    "template",
    "supervise",
    "add_bos_token",
    "max_length",
    "max_prompt_length",
    "long_prompts",
    "loss_on_prompt",
)


def _auto_or_bool(value: Any) -> Any:
    # Checked here, since pydantic would report an error for each half of the type.
    if value != "auto" and not isinstance(value, bool):
        problem(value, "auto, true or false")
    return value


class DatasetSpec(Strict):
    """Instruction data: a file, a folder, or a data set on the Hub."""

    path: PathName = Field(
        description="JSON Lines, JSON, CSV (each also as .gz) or Parquet file, a folder of such or "
        "of `save_to_disk` (./ is relative to the recipe), or a Hub name"
    )
    name: str | None = Field(default=None, description="configuration of a Hub data set")
    data_files: str | None = Field(
        default=None, description="one file of a Hub repository that holds several"
    )
    split: str | None = Field(
        default=None,
        description="split of a Hub data set, slices allowed: train[1000:]; by default the "
        "section's own name, train or validation",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="the source's columns by the names used here, such as "
        "`{instruction: question, output: answer}`; others keep their names",
    )
    streaming: bool = Field(
        default=False,
        description="read rows while training instead of all before it, for data that do not fit "
        "in memory; needs train.num_steps",
    )
    shuffle_buffer: NonNegativeInt | None = Field(
        default=None,
        description="rows of a stream among which the next one is drawn: 1000 if not given; 0 "
        "keeps their order",
    )
    newline: str | None = Field(
        default=None,
        min_length=1,
        description="what stands for a newline in the rows' texts, such as `<n>` in MiniLLM's "
        "ready prompts; null keeps the texts as written",
    )
    template: str = Field(
        default="alpaca",
        description="alpaca, question, qwen, chat (the tokenizer's own) or a format string with "
        "{instruction} and {input}",
    )
    supervise: Literal["all_turns", "last_turn"] = Field(
        default="all_turns",
        description="which of the assistant's turns in a conversation are trained on; a row with "
        "one answer is the same either way",
    )
    add_bos_token: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = Field(
        default="auto",
        description="how prompts begin: auto, as the tokenizer itself begins a text; true, with "
        "its first token; false, with what the template has",
    )
    max_length: Count = Field(
        default=512, description="longest prompt and response together, in tokens"
    )
    max_prompt_length: Count = Field(
        default=256,
        description="longest prompt, in tokens; a conversation's ends where its first supervised "
        "turn begins",
    )
    long_prompts: Literal["drop", "cut"] = Field(
        default="drop",
        description="drop rows with longer prompts (and count them), or cut the prompts",
    )
    num_rows: Count | None = Field(
        default=None, description="use only this many rows, from the start; null uses all"
    )
    loss_on_prompt: bool = Field(default=False, description="also supervise the prompt's tokens")

    generated: bool = Field(
        default=False,
        description="require a teacher's responses, made by `distillens generate` (SeqKD)",
    )

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for name, column in columns.items():
            if name not in FIELDS:
                hint = did_you_mean(name, FIELDS) or f"expected one of {', '.join(FIELDS)}"
                complain(f"found {name}, which no row has; {hint}", at=(name,))
            if list(columns.values()).count(column) > 1:
                complain(f"found {column!r} twice, expected each column once", at=(name,))
        return columns

    @model_validator(mode="after")
    def _only_where_they_act(self) -> "DatasetSpec":
        if self.shuffle_buffer is not None and not self.streaming:
            complain(
                "only a stream has a buffer; set streaming: true, or delete the key",
                at=("shuffle_buffer",),
            )
        if self.supervise != "all_turns" and self.loss_on_prompt:
            complain(
                f"found {self.supervise}, but loss_on_prompt supervises every token, whoever wrote "
                "it; delete one of the two",
                at=("supervise",),
            )
        if self.columns and self.generated:
            complain(
                "generated answers (generated: true) have their own columns; delete the key, or "
                "set it to null",
                at=("columns",),
            )
        return self

    @model_validator(mode="after")
    def _room_for_a_response(self) -> "DatasetSpec":
        if self.max_prompt_length >= self.max_length:
            complain(
                f"found {self.max_prompt_length}, expected less than max_length "
                f"({self.max_length}), to leave room for the response",
                at=("max_prompt_length",),
            )
        return self


class DataSets(Strict):
    """train, and validation for choosing the best model."""

    train: DatasetSpec = Field(description="the training data")
    validation: DatasetSpec | None = Field(
        default=None,
        description="data for choosing the best model; template, lengths and the like default to "
        "those of train",
    )

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        train = data.get("train") if isinstance(data, dict) else None
        validation = data.get("validation") if isinstance(data, dict) else None
        if not isinstance(train, dict) or not isinstance(validation, dict):
            return data
        shared = {key: train[key] for key in _INHERITED if key in train}
        # As in every section, null counts as not given.
        given = {key: value for key, value in validation.items() if value is not None}
        return {**data, "validation": {**shared, **given}}

    @model_validator(mode="after")
    def _validation_is_read_whole(self) -> "DataSets":
        if self.validation is not None and self.validation.streaming:
            complain(
                "validation compares the same rows each time, so they are read once; delete the "
                "key, and limit the rows with num_rows",
                at=("validation", "streaming"),
            )
        return self
