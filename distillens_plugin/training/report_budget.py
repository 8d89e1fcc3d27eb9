"""What a run may spend on measuring itself: a share of its own time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Budget:
    """Adds up what measuring takes, and says whether more of it fits.

    Args:
        max_share: of the run's time so far, 0 to 1; 1 is no limit.
        elapsed: seconds of work since the run began, without interruptions.
        device: of the student; what it still computes is no part of a measurement.

    Attributes:
        seconds: spent so far.
    """

    def __init__(
        self, max_share: float, elapsed: Callable[[], float], device: torch.device
    ) -> None:
        self.max_share = max_share
        self.seconds = 0.0
        self._elapsed = elapsed
        self._device = device

    @property
    def share(self) -> float:
        """Of the run's time so far."""
        return self.seconds / max(self._elapsed(), 1e-9)

    def allows(self, seconds: float) -> bool:
        """Whether a measurement that is expected to take so long fits."""
        return self.max_share >= 1 or self.seconds + seconds <= self.max_share * self._elapsed()

    @contextmanager
    def spending(self) -> Iterator[Callable[[], float]]:
        """Counts what the block takes; gives a function that says the seconds since it began."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        started_at = time.perf_counter()
        try:
            yield lambda: time.perf_counter() - started_at
        finally:
            self.seconds += time.perf_counter() - started_at
