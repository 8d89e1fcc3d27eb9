"""Batches of rows of similar length: little padding, in an order that a seed fixes."""

import random
from collections.abc import Iterator, Sequence
from typing import Protocol

from eval_harness.errors import DistillensError


class RowSampler(Protocol):
    """A sampler of torch: it yields row numbers of a data set."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[int]: ...


class LengthGroupedBatchSampler:
    """Batches of rows of similar length, in a random order that depends only on seed and epoch.

    The shuffled rows are split into pools of `pool_batches` batches; within a pool they are sorted
    by length. Blocks of `neighbours` consecutive batches then move together. So the batches that
    several processes take at one step are also of similar length, and none waits for another's
    padding. Only the last batch may be short, as accelerate requires.

    Args:
        sampler: names the rows: all of its `data_source` (or `dataset`), or, if it is shorter
            (a subset, a rank's share), those it yields. Its own order is ignored.
        batch_size: rows per batch.
        lengths: tokens per row; by default the `lengths` of the sampler's data set.
        seed: the order depends only on it and the epoch.
        drop_last: leave the short batch out.
        pool_batches: larger pools pad less and shuffle less.
        neighbours: batches that stay together; a multiple of the number of processes.
    Raises:
        DistillensError: a batch size below 1, or a data set that does not give its rows' lengths.
    """

    def __init__(
        self,
        sampler: RowSampler,
        batch_size: int,
        lengths: Sequence[int] | None = None,
        seed: int = 0,
        drop_last: bool = False,
        *,
        pool_batches: int = 48,
        neighbours: int = 8,
    ) -> None:
        for name, value in [
            ("batch_size", batch_size),
            ("pool_batches", pool_batches),
            ("neighbours", neighbours),
        ]:
            if not isinstance(value, int) or value < 1:
                raise DistillensError(f"batch_sampler: {name} = {value!r}, expected at least 1")
        data = getattr(sampler, "data_source", getattr(sampler, "dataset", None))
        if lengths is None:
            lengths = getattr(data, "lengths", None)
        if lengths is None:
            raise DistillensError(
                f"batch_sampler: a {type(data).__name__} has no `lengths` to group its rows by; "
                "pass them, or use torch's BatchSampler"
            )
        self.sampler = sampler
        self.batch_size = batch_size
        self.lengths = lengths
        self.seed = seed
        self.drop_last = drop_last
        self.pool_batches = pool_batches
        self.neighbours = neighbours
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass over the data."""
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        num_rows = len(self.sampler)
        return num_rows // self.batch_size if self.drop_last else -(-num_rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # Python seeds from the text itself, so neighbouring seeds and epochs never share an order.
        rng = random.Random(f"{self.seed}:{self.epoch}")
        rows = self._rows()
        rng.shuffle(rows)
        num_full = len(rows) // self.batch_size
        full, rest = rows[: num_full * self.batch_size], rows[num_full * self.batch_size :]
        batches = self._grouped(full, rng)
        yield from batches
        if rest and not self.drop_last:
            yield rest

    def _rows(self) -> list[int]:
        # A sampler of all rows is not asked: that could draw from torch's global random numbers.
        if len(self.sampler) == len(self.lengths):
            return list(range(len(self.lengths)))
        return sorted(self.sampler)

    def _grouped(self, rows: list[int], rng: random.Random) -> list[list[int]]:
        pool_rows = self.pool_batches * self.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(rows), pool_rows):
            pool = sorted(rows[start : start + pool_rows], key=lambda row: self.lengths[row])
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        whole = len(batches) // self.neighbours * self.neighbours
        blocks = [batches[i : i + self.neighbours] for i in range(0, whole, self.neighbours)]
        rng.shuffle(blocks)
        # The incomplete block comes last, so that the others start at multiples of `neighbours`.
        blocks.append(batches[whole:])
        for block in blocks:
            rng.shuffle(block)
        return [batch for block in blocks for batch in block]
