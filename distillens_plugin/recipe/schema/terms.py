"""The parameters of this package's loss terms, as a recipe gives them."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from distillens_plugin.recipe.schema.base import (
    Count,
    NonNegative,
    Positive,
    Range,
    Seed,
    Strict,
    complain,
    did_you_mean,
    problem,
)
from distillens_plugin.recipe.schema.layers import PairedKwargs

DIVERGENCES = (
    "jsd",
    "fkl",
    "rkl",
    "jeffreys",
    "fkl+rkl",
    "akl",
    "skew_fkl",
    "skew_rkl",
    "tvd",
    "alpha_beta",
)
# Which divergences read a parameter; with another one it would be ignored.
_READERS = {
    "beta": ("jsd", "alpha_beta"),
    "alpha": ("skew_fkl", "skew_rkl", "alpha_beta"),
    "coefficients": ("jeffreys", "fkl+rkl"),
    "head_mass": ("akl",),
}


def _known_divergence(name: str) -> str:
    if name not in DIVERGENCES:
        problem(name, f"one of {', '.join(DIVERGENCES)}", did_you_mean(name, DIVERGENCES))
    return name


DivergenceName = Annotated[str, AfterValidator(_known_divergence)]


class DivergenceKwargs(Strict):
    """What all terms that compare two distributions take."""

    beta: float | None = Field(
        default=None,
        description="of jsd: weight of the teacher, in [0, 1] (0.5 if not given; exactly 0 is "
        "forward KL, exactly 1 reverse KL); of alpha_beta: exponent of the student (0.7)",
    )
    alpha: float | None = Field(
        default=None,
        description="of skew_fkl and skew_rkl: in [0, 1) (0.1 if not given); of alpha_beta: "
        "exponent of the teacher (0.2)",
    )
    coefficients: list[NonNegative] | None = Field(
        default=None, description="of jeffreys: factors of FKL and RKL ([1, 1] if not given)"
    )
    head_mass: Annotated[float, AfterValidator(Range(0, 1, True, True))] | None = Field(
        default=None, description="of akl: the share of mass that makes the head (0.5 if not given)"
    )
    temperature: Positive = Field(default=1.0, description="divides both models' logits")
    scale_by_temperature_squared: bool = Field(
        default=False, description="multiply by temperature ** 2; the paper does not"
    )
    chunk_rows: Count | None = Field(
        default=None, description="rows of the vocabulary walk at a time; null chooses"
    )

    def check_options(self, divergence: str) -> None:
        """Refuses a parameter that this divergence does not read, or one out of its range."""
        for name, readers in _READERS.items():
            if getattr(self, name) is not None and divergence not in readers:
                complain(
                    f"{divergence} does not read it (it is for {', '.join(readers)}); delete it, "
                    "or set it to null",
                    at=(name,),
                )
        if self.coefficients is not None and (
            len(self.coefficients) != 2 or sum(self.coefficients) == 0
        ):
            problem(self.coefficients, "two numbers, not both 0", at=("coefficients",))
        if divergence == "alpha_beta":
            for name in ("alpha", "beta"):
                value = getattr(self, name)
                if value is not None and (value == 0 or not math.isfinite(value)):
                    problem(value, "a finite number other than 0", at=(name,))
            return
        if self.beta is not None and not 0 <= self.beta <= 1:
            problem(self.beta, "a number from 0 to 1", at=("beta",))
        if self.alpha is not None and not 0 <= self.alpha < 1:
            problem(self.alpha, "a number in [0, 1)", at=("alpha",))


class LensKwargs(DivergenceKwargs, PairedKwargs):
    """Parameters of `DistillLensLoss`."""

    norm: Literal["identity", "final"] = Field(
        default="identity",
        description="what is applied before the unembedding: nothing (the paper's code), or "
        "each model's own final norm",
    )
    divergence: DivergenceName = Field(
        default="jsd", description=f"one of {', '.join(DIVERGENCES)}"
    )
    detach_unembedding: bool = Field(
        default=False, description="the lens does not train the student's unembedding"
    )

    teacher_translators: str | None = Field(
        default=None,
        description="file of `distillens tune-lens`: the teacher is read through the tuned lens; "
        "needs norm: final",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "LensKwargs":
        self.check_options(self.divergence)
        if self.teacher_translators is not None and self.norm != "final":
            complain(
                f"found {self.norm} with teacher_translators, which are trained through the final "
                "norm; set norm: final",
                at=("norm",),
            )
        return self


class LogitsKwargs(DivergenceKwargs):
    """Parameters of `distillens.logits_kd`."""

    divergence: DivergenceName = Field(
        default="fkl", description=f"one of {', '.join(DIVERGENCES)}"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "LogitsKwargs":
        self.check_options(self.divergence)
        return self


class CrossEntropyKwargs(Strict):
    """Parameters of `distillens.cross_entropy`."""

    chunk_rows: Count | None = Field(
        default=None, description="rows of the vocabulary walk at a time; null chooses"
    )


class ProjectedKwargs(PairedKwargs):
    """What terms with a trained projection take."""

    projection: Literal["per_pair", "shared", "none"] = Field(
        default="per_pair",
        description="trained affine maps from the student's width to the teacher's: one for each "
        "layer pair, one for all, or none (models of one width)",
    )
    seed: Seed | None = Field(
        default=None, description="of the maps' random start; the recipe's if not given"
    )


class MSEKwargs(ProjectedKwargs):
    """Parameters of `distillens.hidden_mse`."""

    metric: Literal["identity", "unembedding", "inverse_unembedding"] = Field(
        default="identity",
        description="how directions of the error count: all alike, or as much or as little as the "
        "teacher's logits move with them",
    )


class SimilarityKwargs(PairedKwargs):
    """Parameters of `distillens.gram` and `distillens.cka`."""


OWN_TERMS: dict[str, type[Strict]] = {
    "DistillLensLoss": LensKwargs,
    "distillens.logits_kd": LogitsKwargs,
    "distillens.cross_entropy": CrossEntropyKwargs,
    "distillens.hidden_mse": MSEKwargs,
    "distillens.hidden_cosine": ProjectedKwargs,
    "distillens.gram": SimilarityKwargs,
    "distillens.cka": SimilarityKwargs,
}
# Terms that compare the student with a teacher.
TEACHER_TERMS = tuple(key for key in OWN_TERMS if key != "distillens.cross_entropy")
