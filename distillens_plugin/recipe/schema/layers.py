"""Which layers a loss term compares, and how much each pair counts."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

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


# Means over the layers' matrix move by 1 % between samples of this size (docs/choosing.md).
MEASURED_ROWS = 64

LayerEntry = Annotated[Layer, BeforeValidator(_layer)]


class MeasuredPairs(Strict):
    """The pairs that were measured, as a run's own recipe.yaml keeps them."""

    student: list[Count] = Field(description="student layers, ascending")
    teacher: list[Count] = Field(description="the teacher layer for each of them, ascending")

    @model_validator(mode="after")
    def _ascending_pairs(self) -> "MeasuredPairs":
        if len(self.student) != len(self.teacher):
            complain(
                f"found {len(self.student)} student layers but {len(self.teacher)} teacher layers, "
                "expected as many of each"
            )
        for side in ("student", "teacher"):
            layers = getattr(self, side)
            if sorted(set(layers)) != layers:
                problem(layers, "ascending layer numbers, each once", at=(side,))
        return self


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
        description="instead of lists: K pairs, chosen as `by` says",
    )
    by: Literal["depth", "divergence"] | None = Field(
        default=None,
        description="how auto chooses: depth, at equal relative depth, layers round(k L / (K + 1)) "
        "for k = 1 to K of L blocks; divergence, measured before training on some training rows: "
        "the ascending pairs of least mean divergence. null: depth",
    )
    rows: Count | None = Field(
        default=None,
        description="of by: divergence: training rows that are measured, drawn by the recipe's "
        "seed; null: 64",
    )
    measured: MeasuredPairs | None = Field(
        default=None,
        description="of by: divergence: the pairs that an earlier run measured, which are not "
        "measured again; a run writes it into its recipe.yaml",
    )

    @model_validator(mode="after")
    def _one_form(self) -> "LayerPairs":
        student, teacher = self.student, self.teacher
        self._check_choice()
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

    def _check_choice(self) -> None:
        """What only `auto`, or only `by: divergence`, reads."""
        if self.by is not None and self.auto is None:
            complain(
                f"found {self.by} without auto; add auto: K, or delete the key: lists are taken as "
                "they are",
                at=("by",),
            )
        for key in ("rows", "measured"):
            if getattr(self, key) is not None and self.by != "divergence":
                complain("is read with by: divergence only; add that, or delete the key", at=(key,))
        if self.measured is not None and len(self.measured.student) != self.auto:
            complain(
                f"found {len(self.measured.student)} pairs with auto: {self.auto}; delete the key "
                "to measure again",
                at=("measured",),
            )

    @property
    def num_pairs(self) -> int:
        """How many pairs are compared."""
        return self.auto if self.auto is not None else len(self.student or [])

    @property
    def to_be_measured(self) -> bool:
        """Whether the pairs are only known once models have read rows (`by: divergence`)."""
        return self.by == "divergence" and self.measured is None

    @property
    def num_rows(self) -> int:
        """Training rows to measure on."""
        return MEASURED_ROWS if self.rows is None else self.rows


def unmeasured(terms: Iterable[tuple[str, "PairedKwargs"]]) -> list[str]:
    """Names of the terms, as `recipe.layer_terms()`, whose pairs are measured before training."""
    return [name for name, paired in terms if paired.layers.to_be_measured]


class PairedKwargs(Strict):
    """What every term over layer pairs takes."""

    layers: LayerPairs = Field(
        description="the layer pairs: {student: [...], teacher: [...]}, {auto: K}, or {auto: K, "
        "by: divergence}"
    )
    pair_weights: list[NonNegative] | None = Field(
        default=None,
        description="one weight per layer pair, normalised to sum to 1; null weighs all equally",
    )

    @property
    def teacher_files(self) -> dict[str, str]:
        """Files that were made for the layers of one teacher, by their keys."""
        return {}

    @property
    def draws_maps(self) -> bool:
        """Whether the term has maps of its own, whose initial values take a seed."""
        return False

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
