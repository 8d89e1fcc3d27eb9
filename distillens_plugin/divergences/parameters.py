"""The parameters of the divergences: defaults, ranges and meaning, each stated only here.

Loads no torch, so that a recipe can be checked without it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distillens_plugin.tables.ranges import Range


@dataclass(frozen=True)
class Parameter:
    """One parameter of a divergence.

    Attributes:
        default: a number, or as many numbers as the parameter takes.
        range: of the number, or of each of them.
        meaning: a phrase for the documentation.
    """

    default: float | tuple[float, ...]
    range: Range
    meaning: str = ""

    @property
    def expected(self) -> str:
        """What a value must be, in the words of an error."""
        if isinstance(self.default, tuple):
            return f"{len(self.default)} numbers, each {self.range}".strip()
        return f"a number {self.range}".strip()

    def accepts(self, value: object) -> bool:
        """Whether a value has the right form and lies in the range."""
        if isinstance(self.default, tuple):
            return (
                isinstance(value, Sequence)
                and len(value) == len(self.default)
                and all(self._fits(entry) for entry in value)
            )
        return self._fits(value)

    def _fits(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value in self.range

    def check(self, name: str, value: object) -> None:
        """Raise ValueError unless the value is accepted."""
        if not self.accepts(value):
            raise ValueError(f"{name} = {value}, expected {self.expected}")


JSD_BETA = Parameter(
    0.5, Range(0, 1), "weight of the teacher; exactly 0 is forward KL, exactly 1 reverse KL"
)
INNER_BETA = Parameter(
    0.5, Range(0, 1, open_low=True, open_high=True), "weight of the teacher in the mixture"
)
# Of fkl_jsd, no key of a recipe: JSD in nats from which a row counts as far (ln 2 is its most).
SWITCH = Parameter(0.1, Range(0, math.log(2), open_low=True))
FORWARD_SKEW = Parameter(
    0.1, Range(0, 1, open_high=True), "share of the teacher in the mixture; 0 is forward KL"
)
REVERSE_SKEW = Parameter(
    0.1, Range(0, 1, open_high=True), "share of the student in the mixture; 0 is reverse KL"
)
COEFFICIENTS = Parameter((1.0, 1.0), Range(0), "factors of forward and reverse KL, not both 0")
HEAD_MASS = Parameter(
    0.5, Range(0, 1, open_low=True, open_high=True), "the share of mass that makes the head"
)
# ABKD's setting for instruction-following language models.
TEACHER_EXPONENT = Parameter(0.2, Range(not_zero=True), "exponent of the teacher")
STUDENT_EXPONENT = Parameter(0.7, Range(not_zero=True), "exponent of the student")


def check_coefficients(coefficients: Sequence[float]) -> None:
    """Raise ValueError unless both are finite, >= 0 and not both 0."""
    COEFFICIENTS.check("coefficients", coefficients)
    if sum(coefficients) == 0:
        raise ValueError(f"coefficients = {coefficients}, expected two numbers, not both 0")


def check_alpha_beta(alpha: float, beta: float) -> None:
    """Raise ValueError unless both are finite, neither is 0, and their sum is above 0.

    With a sum below 0 the rarest tokens alone would decide, whose powers overflow float32.
    """
    if not (TEACHER_EXPONENT.accepts(alpha) and STUDENT_EXPONENT.accepts(beta)) or (
        alpha + beta <= 0
    ):
        raise ValueError(
            f"alpha = {alpha}, beta = {beta}: expected finite numbers other than 0 with a sum "
            "above 0 (use fkl for (1, 0) and rkl for (0, 1))"
        )
