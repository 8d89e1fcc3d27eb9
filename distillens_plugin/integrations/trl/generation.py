"""Generation inside TRL's trainers by a student or a teacher in pieces."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from distillens_plugin.lens.probe import plain_model
from distillens_plugin.sharding.lockstep import lockstep
from distillens_plugin.sharding.pieces import is_in_pieces


@contextmanager
def generating_together(model: nn.Module) -> Iterator[None]:
    """Within it, every process makes as many passes as the others; each must enter.

    `generate` would do so itself (`synced_gpus`), but lengthens the mask of rows that are finished
    and not their tokens, which fails without a key-value cache.

    Args:
        model: unwrapped; a whole one generates as always.
    """
    if not is_in_pieces(model):
        yield
        return
    module: Any = model
    own = vars(module).get("generate")
    module.generate = functools.partial(module.generate, synced_gpus=False)
    try:
        with lockstep(model, plain_model(model)):
            yield
    finally:
        if own is None:
            del module.generate
        else:
            module.generate = own
