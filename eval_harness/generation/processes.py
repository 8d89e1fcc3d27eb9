"""The processes that share a run: here the only one, in `launched` those of a launcher."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


class Counter:
    """How much of a step is done, summed over the processes."""

    def __init__(self) -> None:
        self._num, self._num_tokens = 0, 0

    def add(self, num: int, num_tokens: int) -> None:
        """Adds what this process has done."""
        self._num += num
        self._num_tokens += num_tokens

    def flush(self) -> None:
        """Lets all processes see what this one has done."""

    def totals(self) -> tuple[int, int]:
        """(number, tokens) of all processes."""
        return self._num, self._num_tokens


class Processes:
    """One process, which does everything.

    Attributes:
        rank, size: this process, and how many there are.
        local_rank, local_size: the same on this machine.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process holds the folder, prints, and writes the results."""
        return self.rank == 0

    def together(
        self, step: Callable[[], Value], *, while_waiting: Callable[[], None] | None = None
    ) -> Value:
        """Each process does the step, and then waits for the others.

        Args:
            step: may do something else in each process.
            while_waiting: called about once a second.
        Returns:
            What this process's step returns.
        Raises:
            DistillensError, RunFailure: the first error of any process, in all of them.
        """
        return step()

    def counter(self) -> Counter:
        """A new counter; every process must make the same ones, in the same order."""
        return Counter()

    def path_of_main(self, path: Path | None) -> Path:
        """The path that the main process gives; to be called within a step of its own."""
        assert path is not None
        return path


ALONE = Processes()
