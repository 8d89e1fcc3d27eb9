"""Batches of a stream: where it stands, and how to stand there again."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import send_to_device

from distillens_plugin.data.collate import Batch
from distillens_plugin.data.streaming import StreamedDataset
from eval_harness.errors import DistillensError, RunFailure


class StreamLoader:
    """A box's data loader over a stream: each epoch goes on where the last one ended.

    A stream's length is not known, so an epoch is a number of batches. All processes take equally
    many, and every batch is full.

    Args:
        collate_fn: of the recipe.
        batches_per_epoch: on each process.
        accelerator: names this process's share and its device.

    Attributes:
        num_batches: given so far.
    """

    def __init__(
        self,
        dataset: StreamedDataset,
        *,
        batch_size: int,
        collate_fn: Callable[[Sequence[dict[str, Any]]], Batch],
        batches_per_epoch: int,
        accelerator: Accelerator,
    ) -> None:
        self.dataset = dataset
        self.num_batches = 0
        self._batch_size = batch_size
        self._collate = collate_fn
        self._batches_per_epoch = batches_per_epoch
        self._device = accelerator.device
        self._examples = dataset.examples(accelerator.process_index, accelerator.num_processes)
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.batches_from(0)

    def batches_from(self, num_taken: int) -> Iterator[Batch]:
        """What is left of an epoch whose first `num_taken` batches it has given, or read again."""
        for _ in range(self._batches_per_epoch - num_taken):
            yield send_to_device(self._collate(self._next_examples()), self._device)

    def state(self) -> dict[str, Any]:
        """How many batches were given, and a digest of their tokens and labels."""
        return {"num_batches": self.num_batches, "digest": self._digest.hexdigest()}

    def read_again(self, state: dict[str, Any]) -> bool:
        """Reads a new stream on to where another one stood.

        Returns:
            Whether the batches until there are the same.
        Raises:
            DistillensError: a row until there is malformed, or as `StreamedDataset.examples`.
            RunFailure: the source could not be read on.
        """
        try:
            while self.num_batches < state["num_batches"]:
                self._next_examples()
        except RunFailure as error:
            if isinstance(error.__cause__, DistillensError):
                # A mistake in the data, as among the first rows: training has not begun again.
                raise DistillensError(str(error)) from error
            raise
        return self.state() == state

    def _next_examples(self) -> list[dict[str, Any]]:
        examples = [next(self._examples) for _ in range(self._batch_size)]
        for example in examples:
            self._digest.update(len(example["input_ids"]).to_bytes(8, "big"))
            for key in ("input_ids", "labels"):
                self._digest.update(array("q", example[key]).tobytes())
        self.num_batches += 1
        return examples
