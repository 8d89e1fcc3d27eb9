"""Rows that are read and tokenised while training, for data that do not fit in memory.

Every process reads all rows in the same order and tokenises only those of its turn. So a step
trains on the same rows however many processes there are, as long as none is dropped.
"""

import random
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import TYPE_CHECKING, Any, TypeVar

from torch.utils.data import IterableDataset

from distillens_plugin.data.dataset import DataCounts, InstructionDataset
from distillens_plugin.data.examples import RowEncoder, load_examples
from distillens_plugin.data.rows import FIRST_ROWS, read_rows
from distillens_plugin.data.spec import DatasetSpec
from eval_harness.errors import DistillensError, RunFailure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHUFFLE_BUFFER = 1000
# Tokenizers are faster with several texts at once.
_GROUP = 32

Item = TypeVar("Item")


class StreamedDataset(IterableDataset[dict[str, Any]]):
    """The rows of a source in one pass after the other, without an end.

    Items are those of an `InstructionDataset` of the same rows. Each pass has an order of its own,
    which depends only on seed and pass.

    Args:
        spec: with `streaming`.
        tokenizer, where, default_split: as for `load_examples`.
        seed: of the order.

    Attributes:
        head: the first `FIRST_ROWS` rows, tokenised.
        counts: what this process has tokenised so far.
        prefix_ids, end_ids: as of an `InstructionDataset`.
        notes: phrases about anything unusual in the tokens.

    Raises:
        DistillensError: the first rows cannot be read, or none of their tokens is supervised.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        where: str,
        seed: int,
        default_split: str = "train",
    ) -> None:
        self.spec = spec
        self.seed = seed
        self.buffer = _SHUFFLE_BUFFER if spec.shuffle_buffer is None else spec.shuffle_buffer
        self.head = load_examples(
            spec, tokenizer, where=where, default_split=default_split, first_rows=FIRST_ROWS
        )
        self.prefix_ids = self.head.prefix_ids
        self.end_ids = self.head.end_ids
        self.notes = self.head.notes
        self._encode = RowEncoder(spec, tokenizer, where)
        self._where = where
        self._default_split = default_split

    @property
    def counts(self) -> DataCounts:
        return self._encode.counts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.examples()

    def examples(self, process_index: int = 0, num_processes: int = 1) -> Iterator[dict[str, Any]]:
        """This process's share of the rows, from the start of the first pass.

        Raises:
            DistillensError: a whole pass holds no row for this process.
            RunFailure: a row is malformed, or the source could not be read on.
        """
        for number in count():
            rows = read_rows(self.spec, where=self._where, default_split=self._default_split)
            # Python seeds from the text itself, so neighbouring seeds and passes never share one.
            rng = random.Random(f"{self.seed}:{number}")
            share = islice(shuffled(rows, self.buffer, rng), process_index, None, num_processes)
            num_kept = 0
            while (part := self._next_part(share)) is not None:
                num_kept += len(part)
                yield from (part[index] for index in range(len(part)))
            if num_kept == 0:
                raise DistillensError(
                    f"{self._where}: {self.spec.path} has no row for process {process_index} of "
                    f"{num_processes}; use fewer processes"
                )

    def _next_part(self, share: Iterator[Any]) -> InstructionDataset | None:
        try:
            group = list(islice(share, _GROUP))
            return self._part(self._encode(group)) if group else None
        except RunFailure:
            raise
        except DistillensError as error:
            # Behind the first rows, which were read before training: no mistake of the start.
            raise RunFailure(str(error)) from error

    def _part(self, rows: list[Any]) -> InstructionDataset:
        part = InstructionDataset(self.spec, rows, DataCounts(), pad_id=self.head.pad_id)
        part.count_tokens()
        self.counts.tokens += part.counts.tokens
        self.counts.supervised_tokens += part.counts.supervised_tokens
        return part

    def describe(self) -> str:
        """One line for people: of the first rows at first, and later of all that were read."""
        if self.counts.read == 0:
            order = f"drawn from a buffer of {self.buffer:,}" if self.buffer > 1 else "in order"
            first = f"these are the first {self.head.counts.read:,} rows, all are read {order}"
            return f"{self.head.describe()}; streamed: {first}"
        so_far = InstructionDataset(
            self.spec, [], self.counts, pad_id=self.head.pad_id, notes=self.notes
        )
        return f"{so_far.describe()}; streamed: so far, by one process"


TrainingData = InstructionDataset | StreamedDataset


def first_examples(data: TrainingData) -> InstructionDataset:
    """All rows, or the first of a stream: for what needs some rows before training."""
    return data.head if isinstance(data, StreamedDataset) else data


def shuffled(items: Iterable[Item], buffer_size: int, rng: random.Random) -> Iterator[Item]:
    """The items in another order: each is drawn from a buffer, which the next one then fills up.

    Args:
        buffer_size: items held at a time; below 2 their order stays.
    """
    buffer: list[Item] = []
    for item in items:
        if len(buffer) < buffer_size:
            buffer.append(item)
            continue
        if not buffer:
            yield item
            continue
        place = rng.randrange(len(buffer))
        yield buffer[place]
        buffer[place] = item
    rng.shuffle(buffer)
    yield from buffer


class NoSampler:
    """torchdistill gives every loader a sampler, but torch takes only None for a stream."""

    def __new__(cls, *_: object, **__: object) -> None:  # type: ignore[misc]
        """None, whatever the data set."""
        return
