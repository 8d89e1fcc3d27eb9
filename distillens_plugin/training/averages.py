"""Means of what each step reports, over the steps between two records."""

import math
from collections.abc import Mapping
from typing import Any


class Averages:
    """Means of loss, terms and layer pairs over the steps since the last record.

    A step that lacks a value, as one that fp16 skips lacks its gradient's norm, counts for the
    others alone.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def state(self) -> dict[str, Any]:
        """The sums so far, for `restore`."""
        return {"sums": self._sums, "counts": self._counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._sums = dict(state["sums"])
        # States of earlier versions have one count for all.
        counts = state["counts"] if "counts" in state else dict.fromkeys(self._sums, state["steps"])
        self._counts = dict(counts)

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: value / self._counts[name] for name, value in self._sums.items()}
        self._sums, self._counts = {}, {}
        return {name: value for name, value in means.items() if math.isfinite(value)}
