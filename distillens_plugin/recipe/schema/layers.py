"""Which layers a loss term compares, and how much each pair counts."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from distillens_plugin.lens.layers import Layer
from distillens_plugin.recipe.schema.base import Count, NonNegative, Strict, complain, problem


def _layer(value: Any) -> Any:
    # bool is an int to Python; `true` as a layer number is a mistake.
    if isinstance(value, bool) or not isinstance(value, int | str):
        problem(value, "a layer number or a module path")
    if isinstance(value, int) and value < 0:
        problem(value, "a layer number of at least 0", "0 is the embeddings' output")
    if value == "":
        problem(value, "a layer number or a module path")
    return value


LayerEntry = Annotated[Layer, BeforeValidator(_layer)]


class LayerPairs(Strict):
    """Which layers are compared: two lists of the same length, or `auto`."""

    student: list[LayerEntry] | None = Field(
        default=None,
        description="student layers (k is the residual stream after k blocks, 0 the embeddings) or "
        "module paths",
    )
    teacher: list[LayerEntry] | None = Field(
        default=None, description="the teacher layer or module path for each student layer"
    )
    auto: Count | None = Field(
        default=None,
        description="instead of lists: K pairs at equal relative depth, layers round(k L / (K + "
        "1)) for k = 1 to K of L blocks",
    )

    @model_validator(mode="after")
    def _one_form(self) -> "LayerPairs":
        student, teacher = self.student, self.teacher
        if self.auto is not None:
            if student is not None or teacher is not None:
                complain(
                    "found auto and lists; keep either auto: K, or student: [...] and teacher: "
                    "[...]"
                )
        elif student is None or teacher is None:
            missing = "auto: K, or student: [...] and teacher: [...]"
            if student is not None or teacher is not None:
                missing = (
                    f"{'teacher' if teacher is None else 'student'}: [...] with the other list"
                )
            complain(f"layers are missing; expected {missing}")
        elif len(student) != len(teacher):
            complain(
                f"found {len(student)} student layers but {len(teacher)} teacher layers, "
                "expected as many of each: the lists are read as pairs"
            )
        elif not student:
            complain("found empty lists, expected at least one layer pair")
        return self

    @property
    def num_pairs(self) -> int:
        """How many pairs are compared."""
        return self.auto if self.auto is not None else len(self.student or [])


class PairedKwargs(Strict):
    """What every term over layer pairs takes."""

    layers: LayerPairs = Field(
        description="the layer pairs: {student: [...], teacher: [...]} or {auto: K}"
    )
    pair_weights: list[NonNegative] | None = Field(
        default=None,
        description="one weight per layer pair, normalised to sum to 1; null weighs all equally",
    )

    @model_validator(mode="after")
    def _one_weight_a_pair(self) -> "PairedKwargs":
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
