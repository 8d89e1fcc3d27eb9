"""The recipe's data loaders: batches, their order and their collation."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from distillens_plugin.recipe.schema.base import (
    Count,
    FewOrNone,
    Strict,
    complain,
    did_you_mean,
)
from distillens_plugin.recipe.schema.names import BATCH_SAMPLER, COLLATE_FUNCTION
from distillens_plugin.recipe.schema.torchdistill_names import SAMPLER_MODULES, SAMPLERS

# The samplers of rows in their order, and of a stream, which needs none.
IN_ORDER = "torch.utils.data.SequentialSampler"
STREAMED = "distillens_plugin.data.streaming.NoSampler"


class LoaderKwargs(Strict):
    """Parameters of torch's DataLoader."""

    batch_size: Count = Field(description="rows per batch on each process")
    num_workers: FewOrNone = Field(default=0, description="number of loading processes")
    pin_memory: bool = Field(default=False, description="pinned memory, for faster copies to a GPU")
    drop_last: bool = Field(default=False, description="drop the last batch if it is not full")


class Sampler(Strict):
    """torchdistill's sampler entry, for an order of your own."""

    class_or_func: Any = Field(description="!import_get of a torch.utils.data sampler")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="its parameters")

    @field_validator("class_or_func")
    @classmethod
    def _torch_has_it(cls, value: Any) -> Any:
        """Checks torch's own names; any other needs --trust-recipe, and is checked there."""
        named = getattr(value, "key", value)
        module, _, name = named.rpartition(".") if isinstance(named, str) else ("", "", "")
        if module in SAMPLER_MODULES and name not in SAMPLERS:
            hint = did_you_mean(name, SAMPLERS) or f"expected one of {', '.join(SAMPLERS)}"
            complain(f"found {named}, which torch does not have; {hint}")
        return value


class BatchSampler(Strict):
    """torchdistill's batch sampler entry."""

    key: Annotated[str, BATCH_SAMPLER.validator] = Field(
        description="distillens.length_grouped, or one that torchdistill knows"
    )
    kwargs: dict[str, Any] = Field(default_factory=dict, description="its parameters")


class DataLoader(Strict):
    """A data loader; batches are grouped by length unless a sampler is given."""

    kwargs: LoaderKwargs = Field(description="parameters of torch's DataLoader")
    sampler: Sampler | None = Field(
        default=None, description="an order of your own instead of batches of similar length"
    )
    batch_sampler: BatchSampler | None = Field(
        default=None,
        description="another way to form batches; distillens.length_grouped if not given",
    )
    packing: bool = Field(
        default=False,
        description="lay rows end to end in packs of up to max_length tokens, without attention "
        "across rows; batch_size then counts packs",
    )
    collate_fn: Annotated[str, COLLATE_FUNCTION.validator] = Field(
        default="distillens.collate", description="torchdistill's key of the collate function"
    )

    @model_validator(mode="after")
    def _packs_are_ours(self) -> "DataLoader":
        if self.packing and self.collate_fn != "distillens.collate":
            complain(
                f"packing needs distillens.collate, found {self.collate_fn}; delete the key, or "
                "delete packing",
                at=("collate_fn",),
            )
        return self


class ValidationKwargs(Strict):
    """The settings of the validation loader."""

    batch_size: Count | None = Field(
        default=None, description="rows per batch on each process; by default that of training"
    )


class ValidationLoader(Strict):
    """The validation loader, of which only the batch size can be set."""

    kwargs: ValidationKwargs = Field(
        default_factory=ValidationKwargs, description="parameters of torch's DataLoader"
    )
