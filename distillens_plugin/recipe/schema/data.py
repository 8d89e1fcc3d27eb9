"""The recipe's data sets."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distillens_plugin.recipe.schema.base import Count, PathName, Strict, complain, problem

# How rows become tokens: what the validation set takes over from the training set.
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
    # Here, since pydantic would report on each half of the type.
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
        description="split of a Hub data set, slices allowed: train[1000:]; its own name if not "
        "given",
    )
    newline: str | None = Field(
        default=None,
        min_length=1,
        description="what the rows' texts write for a newline, such as `<n>` in MiniLLM's ready "
        "prompts; null: nothing, texts stay as they are",
    )
    template: str = Field(
        default="alpaca",
        description="alpaca, question, qwen, chat (the tokenizer's own) or a format string with "
        "{instruction} and {input}",
    )
    add_bos_token: Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)] = Field(
        default="auto",
        description="what prompts begin with: auto, as the tokenizer itself begins a text; true, "
        "its first token; false, nothing that the template does not bring",
    )
    max_length: Count = Field(
        default=512, description="longest prompt and response together, in tokens"
    )
    max_prompt_length: Count = Field(default=256, description="longest prompt, in tokens")
    long_prompts: Literal["drop", "cut"] = Field(
        default="drop", description="longer prompts are left out (and counted), or cut"
    )
    num_rows: Count | None = Field(default=None, description="use only the first rows; null: all")
    loss_on_prompt: bool = Field(default=False, description="supervise the prompt's tokens too")

    generated: bool = Field(
        default=False,
        description="the responses must be a teacher's, made by `distillens generate` (SeqKD)",
    )

    @model_validator(mode="after")
    def _room_for_a_response(self) -> "DatasetSpec":
        if self.max_prompt_length >= self.max_length:
            complain(
                f"found {self.max_prompt_length}, expected less than max_length "
                f"({self.max_length}), or no room is left for the response",
                at=("max_prompt_length",),
            )
        return self


class DataSets(Strict):
    """train, and validation for choosing the best model."""

    train: DatasetSpec = Field(description="what is learnt from")
    validation: DatasetSpec | None = Field(
        default=None,
        description="what the best model is chosen by; template and lengths are those of train "
        "unless given",
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
