"""The keys that say what a run reports, and where."""

from typing import Any

from pydantic import Field, model_validator

from distillens_plugin.recipe.schema.base import (
    Count,
    Fraction,
    NonNegativeInt,
    Strict,
    complain,
    problem,
)


class Samples(Strict):
    """Answers generated at the end of a run, beside their references."""

    num_rows: NonNegativeInt = Field(
        default=3, description="number of validation rows to answer and show"
    )
    max_new_tokens: Count = Field(default=128, description="longest answer, in tokens")


class Report(Strict):
    """What a run measures of itself as it goes on; `report: false` turns all of it off."""

    lens: bool = Field(
        default=True,
        description="what the lens reads from each layer of student and teacher, in lens.jsonl: "
        "before training, at validations, and after",
    )
    positions: Count = Field(
        default=256,
        description="supervised positions that the lens reads, of the first validation rows (or "
        "training rows without validation); fewer in short runs",
    )
    answers: bool = Field(
        default=True,
        description="answers of `samples` at validations and at the end, in answers.jsonl",
    )
    page: bool = Field(default=True, description="write report/report.html when the run ends")
    max_share: Fraction = Field(
        default=0.02,
        description="share of the run's time that measuring may take; before and after training "
        "the lens always reads, in between only within this share; 1 measures at every validation",
    )

    @model_validator(mode="before")
    @classmethod
    def _true_or_false(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else {"lens": False, "answers": False, "page": False}
        if not isinstance(value, dict):
            problem(value, "true, false, or a mapping")
        return value

    @property
    def is_on(self) -> bool:
        """Whether anything is measured or drawn."""
        return self.lens or self.answers or self.page


def check_upload_keys(*, push_to_hub: str | None, hub_private: bool | None) -> None:
    """Refuses, inside a validator, a key that would have no effect."""
    if hub_private is not None and push_to_hub is None:
        complain("nothing is uploaded; add push_to_hub, or delete the key", at=("hub_private",))


def check_validation_terms(*, has_teacher: bool, has_validation: bool, has_cache: bool) -> None:
    """Refuses, inside a validator, `validation_terms: true` where nothing can be compared."""
    missing = None
    if not has_teacher:
        missing = "there is no teacher to compare with"
    elif not has_validation:
        missing = "there is no datasets.validation"
    elif has_cache:
        missing = "a teacher_cache keeps the teacher's states of training rows alone"
    if missing is not None:
        complain(f"{missing}; delete the key", at=("validation_terms",))
