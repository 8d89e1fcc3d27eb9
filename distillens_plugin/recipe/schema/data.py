"""The recipe's data sets."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distillens_plugin.recipe.schema.base import Count, PathName, Strict, complain, problem

# How rows become tokens: the validation set inherits these keys from the training set.
_INHERITED = (
    "newline",
    "template",
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
    """Instruction data: a JSON Lines file, or a data set on the Hub."""

    path: PathName = Field(
        description="JSON Lines file (./ is relative to the recipe), or a Hub name"
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
    add_bos_token: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = Field(
        default="auto",
        description="how prompts begin: auto, as the tokenizer itself begins a text; true, with "
        "its first token; false, with what the template has",
    )
    max_length: Count = Field(
        default=512, description="longest prompt and response together, in tokens"
    )
    max_prompt_length: Count = Field(default=256, description="longest prompt, in tokens")
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
        return {**data, "validation": {**shared, **validation}}
