"""Averages of the loss terms' values for the log, read from the device once per log line."""

from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class WindowAverages:
    """Values of one logging window of training, added up where they are.

    A step's value is the sum over its micro-batches, as each is divided by the whole step's tokens.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: set[int] = set()

    def add(self, values: Mapping[str, Tensor], step: int) -> None:
        """Adds a micro-batch of the optimiser step with this number."""
        self._steps.add(step)
        for name, value in values.items():
            known = self._sums.get(name)
            self._sums[name] = value if known is None else known + value

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Each value's mean over the window's steps and over all processes; starts a new window.

        Every process must call it.
        """
        sums, steps = self._sums, len(self._steps)
        self._sums, self._steps = {}, set()
        if not sums:
            return {}
        stacked = _stacked(sums, accelerator.device) / steps
        means = accelerator.reduce(stacked, reduction="mean")
        return dict(zip(sums, means.tolist(), strict=True))


class RowAverages:
    """Values of an evaluation, averaged over rows just as the Trainer averages its loss.

    So the weighted sum of the terms is the loss beside them.
    """

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}
        self._names: list[str] = []
        self._sum: Tensor | None = None
        self._rows = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Keeps a batch's values until `close_batch`."""
        self._values = dict(values)

    def close_batch(
        self, batch_size: int, gather: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        """Counts the batch's values once for each row, of all processes.

        Args:
            batch_size: rows of a full batch; `gather` takes out those that were not there.
            device: on which `gather` works.
        """
        values, self._values = self._values, {}
        if not values:
            return
        self._names = list(values)
        own = _stacked(values, device)
        rows = gather(own.expand(batch_size, -1).contiguous())
        self._rows += len(rows)
        self._sum = rows.sum(0) if self._sum is None else self._sum + rows.sum(0)

    def means(self) -> dict[str, float]:
        """Each value's mean by name; empty where no batch had labels."""
        if self._sum is None:
            return {}
        return dict(zip(self._names, (self._sum / self._rows).tolist(), strict=True))


def _stacked(values: Mapping[str, Tensor], device: torch.device) -> Tensor:
    return torch.stack([value.to(device, torch.float32) for value in values.values()])
