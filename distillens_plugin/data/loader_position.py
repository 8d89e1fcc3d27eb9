"""Standing in the middle of an epoch: a loader's batches from there on, and its random order."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast, runtime_checkable

import torch
from accelerate import skip_first_batches
from torch import Tensor

from distillens_plugin.data.collate import Batch
from eval_harness.errors import DistillensError


@runtime_checkable
class Positioned(Protocol):
    """A loader that finds its own way into the middle of an epoch."""

    def batches_from(self, num_taken: int) -> Iterator[Batch]:
        """The batches of the epoch after the first `num_taken`, on this process."""


def batches_from(loader: Iterable[Batch], num_taken: int) -> Iterator[Batch]:
    """The batches of an epoch after the first `num_taken`, on this process.

    A prepared data loader skips them at its sampler: their rows are not read.
    """
    if isinstance(loader, Positioned):
        return loader.batches_from(num_taken)
    if num_taken == 0:
        return iter(loader)
    return iter(cast(Iterable[Batch], skip_first_batches(loader, num_taken)))


def order_states(loader: object) -> list[Tensor]:
    """The states of the random generators that a loader's samplers own, outermost first."""
    return [generator.get_state() for generator in _generators(loader)]


def restore_order(loader: object, states: list[Tensor]) -> None:
    """Puts back what `order_states` gave, before an epoch begins.

    Raises:
        DistillensError: the loader has other generators: on one process accelerate lets torch's
            RandomSampler draw from the global one, and on several it gives it one of its own.
    """
    generators = _generators(loader)
    if len(generators) != len(states):
        raise DistillensError(
            "--resume: the order of train.train_data_loader's own sampler depends on the number of "
            "processes; launch as many as before, or start over with --overwrite"
        )
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def _generators(loader: object) -> list[torch.Generator]:
    found: list[torch.Generator] = []
    inner: Any = loader
    while inner is not None:
        for place in (inner, getattr(inner, "sampler", None)):
            generator = getattr(place, "generator", None)
            if isinstance(generator, torch.Generator) and not any(generator is g for g in found):
                found.append(generator)
        inner = getattr(inner, "batch_sampler", None)
    return found
