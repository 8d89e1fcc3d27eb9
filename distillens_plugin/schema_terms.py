"""The parameters of this package's loss terms, as a recipe gives them."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from distillens_plugin.schema_base import (
    Count,
    NonNegative,
    Positive,
    Range,
    Strict,
    complain,
    did_you_mean,
    problem,
)

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


def _layer(value: Any) -> Any:
    # bool is an int to Python; `true` as a layer number is a mistake.
    if isinstance(value, bool) or not isinstance(value, int | str):
        problem(value, "a layer number or a module path")
    if isinstance(value, int) and value < 0:
        problem(value, "a layer number of at least 0", "0 is the embeddings' output")
    if value == "":
        problem(value, "a layer number or a module path")
    return value


Layer = Annotated[int | str, BeforeValidator(_layer)]
DivergenceName = Annotated[str, AfterValidator(_known_divergence)]


class LayerPairs(Strict):
    """Which layers are compared: two lists of one length, or `auto`."""

    student: list[Layer] | None = Field(
        default=None,
        description="student layers (k is the residual stream after k blocks, 0 the embeddings) or "
        "module paths",
    )
    teacher: list[Layer] | None = Field(
        default=None, description="the teacher layer or module path for each student layer"
    )
    auto: Count | None = Field(
        default=None,
        description="this many pairs by relative depth, layer round(k L / (K + 1)); instead of "
        "lists",
    )

    @model_validator(mode="after")
    def _one_form(self) -> "LayerPairs":
        student, teacher = self.student, self.teacher
        if self.auto is not None:
            if student is not None or teacher is not None:
                complain(
                    "found auto beside lists; keep auto: K, or student: [...] and teacher: [...]"
                )
        elif student is None or teacher is None:
            missing = "auto: K, or student: [...] and teacher: [...]"
            if student is not None or teacher is not None:
                missing = (
                    f"{'teacher' if teacher is None else 'student'}: [...] beside the other list"
                )
            complain(f"layers are missing; expected {missing}")
        elif len(student) != len(teacher):
            complain(
                f"found {len(student)} student layers but {len(teacher)} teacher layers, "
                "expected as many of each: the lists are read in pairs"
            )
        elif not student:
            complain("found empty lists, expected at least one layer pair")
        return self

    @property
    def num_pairs(self) -> int:
        """How many pairs are compared."""
        return self.auto if self.auto is not None else len(self.student or [])


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


class LensKwargs(DivergenceKwargs):
    """Parameters of `DistillLensLoss`."""

    layers: LayerPairs = Field(
        description="the layer pairs: {student: [...], teacher: [...]} or {auto: K}"
    )
    norm: Literal["identity", "final"] = Field(
        default="identity",
        description="what is applied before the unembedding: nothing (the paper's code), or "
        "each model's own final norm",
    )
    divergence: DivergenceName = Field(
        default="jsd", description=f"one of {', '.join(DIVERGENCES)}"
    )
    pair_weights: list[NonNegative] | None = Field(
        default=None,
        description="one weight per layer pair, normalised to sum to 1; null: all alike",
    )
    detach_unembedding: bool = Field(
        default=False, description="the lens does not train the student's unembedding"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "LensKwargs":
        self.check_options(self.divergence)
        weights = self.pair_weights
        if weights is None:
            return self
        if len(weights) != self.layers.num_pairs:
            complain(
                f"found {len(weights)} weights for {self.layers.num_pairs} layer pairs, expected "
                "one weight per pair",
                at=("pair_weights",),
            )
        if sum(weights) == 0:
            complain("found only zeros, expected a weight above 0", at=("pair_weights",))
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


OWN_TERMS: dict[str, type[Strict]] = {
    "DistillLensLoss": LensKwargs,
    "distillens.logits_kd": LogitsKwargs,
    "distillens.cross_entropy": CrossEntropyKwargs,
}
