"""What cannot be with `datasets.train.streaming`, whose rows are not known before training."""

from distillens_plugin.recipe.schema.base import complain
from distillens_plugin.recipe.schema.data import DataSets
from distillens_plugin.recipe.schema.train import Train


def check_streaming(datasets: DataSets, train: Train, *, keeps_states: bool) -> None:
    """Refuses, inside a validator, keys that need to know every row before training.

    Args:
        keeps_states: whether the recipe has a teacher_cache.
    """
    loader = train.train_data_loader
    if not datasets.train.streaming:
        if train.steps_per_epoch is not None:
            complain(
                "an epoch's steps follow from the data; delete the key, or set "
                "datasets.train.streaming",
                at=("train", "steps_per_epoch"),
            )
        return
    todo = "delete the key, or datasets.train.streaming"
    if train.num_steps is None:
        complain(
            "found num_epochs, but the length of a stream (datasets.train.streaming) is not known; "
            "set num_steps, and num_epochs to null",
            at=("train", "num_epochs"),
        )
    at = ("train", "train_data_loader")
    for key in ("sampler", "batch_sampler"):
        if getattr(loader, key) is not None:
            complain(
                f"a stream has its own order (datasets.train.shuffle_buffer); {todo}",
                at=(*at, key),
            )
    if loader.packing:
        complain(f"rows of a stream are not packed; {todo}", at=(*at, "packing"))
    for key in ("num_workers", "pin_memory"):
        if getattr(loader.kwargs, key):
            complain(
                f"a stream is read by the process that trains; {todo}", at=(*at, "kwargs", key)
            )
    if keeps_states:
        complain(
            f"a stream's rows are not known before training, so no states are kept; {todo}",
            at=("teacher_cache",),
        )
    if train.on_policy is not None:
        complain(
            f"a stream's prompts are not known before training; {todo}", at=("train", "on_policy")
        )
