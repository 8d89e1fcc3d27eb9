"""Averages over supervised tokens of the loss terms' values, for the log."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class TokenAverages:
    """Values of one logging window, added up on the device and read once.

    TRL divides a micro-batch by the tokens of more than itself: of the accumulation window, and in
    GKD of the rows as they were before the student wrote its own answers. So sums are kept.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(
        self,
        values: Mapping[str, Tensor],
        *,
        num_supervised: Tensor,
        divided_by: Tensor | float | None,
    ) -> None:
        """Adds a micro-batch.

        Args:
            values: 0-d, each a sum over the micro-batch's positions that was divided.
            num_supervised: the micro-batch's supervised positions, 0-d.
            divided_by: None where it was `num_supervised`.
        """
        # Before the values, whose names may differ between micro-batches; no term has this name.
        added = {"": num_supervised.double()}
        count = num_supervised if divided_by is None else divided_by
        added |= {name: value.double() * count for name, value in values.items()}
        for name, value in added.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Each value's mean over all tokens of the window and of all processes; forgets them.

        Every process must call it.
        """
        sums, self._sums = self._sums, {}
        if not sums:
            return {}
        total = accelerator.reduce(torch.stack(list(sums.values())), reduction="sum")
        num_tokens, *values = total.tolist()
        names = list(sums)[1:]
        return {name: value / max(num_tokens, 1) for name, value in zip(names, values, strict=True)}
