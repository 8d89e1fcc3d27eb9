"""Ranges of numbers, as errors and the documentation name them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`; `str` of it completes "a number ..."."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    not_zero: bool = False

    def __str__(self) -> str:
        bounds = self._bounds()
        return f"{bounds} other than 0".strip() if self.not_zero else bounds

    def _bounds(self) -> str:
        low, high = (
            str(end) if isinstance(end, int) else f"{end:g}" for end in (self.low, self.high)
        )
        if self.low == -math.inf:
            return "" if self.high == math.inf else f"of at most {high}"
        if self.high == math.inf:
            return f"above {low}" if self.open_low else f"of at least {low}"
        if self.open_low or self.open_high:
            return (
                f"in {'(' if self.open_low else '['}{low}, {high}{')' if self.open_high else ']'}"
            )
        return f"from {low} to {high}"

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value) and not (self.not_zero and value == 0)
