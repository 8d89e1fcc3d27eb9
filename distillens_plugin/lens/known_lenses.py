"""Each model's lens, found once: finding it takes a few forward passes."""

import weakref

from torch import nn

from distillens_plugin.lens.discovery import find_anatomy
from distillens_plugin.lens.probe import unwrap
from distillens_plugin.lens.readout import Anatomy, Lens

_known: "weakref.WeakKeyDictionary[nn.Module, Lens]" = weakref.WeakKeyDictionary()


def lens_of(model: nn.Module) -> Lens:
    """The lens of a (wrapped) model, made at its first use, after the anatomy's self-check.

    Raises:
        DistillensError: the lens cannot read this model.
    """
    bare = unwrap(model)
    if bare not in _known:
        _known[bare] = Lens(bare, find_anatomy(bare))
    return _known[bare]


def remember(model: nn.Module, anatomy: Anatomy) -> None:
    """Gives a (wrapped) model the lens that another process has found for it."""
    bare = unwrap(model)
    _known[bare] = Lens(bare, anatomy)
