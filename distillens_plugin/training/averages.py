"""Means of what each step reports, over the steps between two records."""

import math
from collections.abc import Mapping
from typing import Any


class Averages:
    """Means of loss, terms and layer pairs over the steps since the last record."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, values: Mapping[str, float]) -> None:
        self._steps += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def state(self) -> dict[str, Any]:
        """The sums so far, for `restore`."""
        return {"sums": self._sums, "steps": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._sums, self._steps = dict(state["sums"]), state["steps"]

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = (
            {name: value / self._steps for name, value in self._sums.items()} if self._steps else {}
        )
        self._sums, self._steps = {}, 0
        return {name: value for name, value in means.items() if math.isfinite(value)}
