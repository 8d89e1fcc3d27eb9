"""`datasets.train.streaming`: the loader of a run over a stream, and the length of its epochs."""

from accelerate import Accelerator
from torchdistill.datasets.registry import get_collate_func

from distillens_plugin.data.stream_loader import StreamLoader
from distillens_plugin.data.streaming import StreamedDataset
from distillens_plugin.recipe.schema.recipe import Recipe


def stream_epoch_steps(recipe: Recipe) -> int:
    """Optimiser steps of an epoch: as the recipe says, or the whole run."""
    steps = recipe.train.steps_per_epoch or recipe.train.num_steps
    assert steps is not None  # the schema: a stream needs num_steps
    return steps


def stream_loader(
    recipe: Recipe, stream: StreamedDataset, accelerator: Accelerator
) -> StreamLoader:
    """What replaces the box's own loader, which would read without an end."""
    loader = recipe.train.train_data_loader
    return StreamLoader(
        stream,
        batch_size=loader.kwargs.batch_size,
        collate_fn=get_collate_func(loader.collate_fn),
        batches_per_epoch=stream_epoch_steps(recipe) * recipe.train.optimizer.grad_accum_step,
        accelerator=accelerator,
    )
