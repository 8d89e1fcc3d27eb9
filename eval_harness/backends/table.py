"""The backends there are, one entry each, and how to add one's own; it loads nothing heavy."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval_harness.errors import DistillensError
from eval_harness.shared.near import near_names

if TYPE_CHECKING:
    from eval_harness.backends.base import Backend


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend is, before it is loaded.

    Attributes:
        place: `module:Class`, imported when the backend is chosen; or the class itself.
        summary: a few words for help texts.
        checks_anywhere: whether its arguments can be checked on a machine that cannot run it.
    """

    place: "str | type[Backend]"
    summary: str = ""
    checks_anywhere: bool = True


# The first one is the default of `eval-harness run`.
BACKENDS: dict[str, BackendEntry] = {
    "vllm": BackendEntry(
        "eval_harness.backends.vllm:VllmBackend", "the fastest", checks_anywhere=False
    ),
    "hf": BackendEntry(
        "eval_harness.backends.transformers:TransformersBackend", "transformers, runs anywhere"
    ),
}
_OURS = frozenset(BACKENDS)


def register_backend(name: str, backend: "type[Backend]", *, summary: str = "") -> None:
    """Adds a backend of one's own, for this process.

    Args:
        name: for `evaluate(..., backend=name)`. A name that was registered before gets the new
            class.
        backend: see `Backend`: the methods to write and those to override.
        summary: a few words for help texts.
    Raises:
        DistillensError: one of our own names, or an empty one.
    """
    if not name or name in _OURS:
        raise DistillensError(f"backend {name!r}: empty or one of ours; choose another name")
    BACKENDS[name] = BackendEntry(backend, summary)


def backend_entry(name: str, *, where: str = "--model") -> BackendEntry:
    """The entry of a name.

    Args:
        where: what errors begin with.
    Raises:
        DistillensError: no such backend (with near names).
    """
    if name not in BACKENDS:
        raise DistillensError(
            f"{where} {name}: not known, expected {' or '.join(BACKENDS)}"
            f"{near_names(name, BACKENDS)}"
        )
    return BACKENDS[name]


def backend_class(name: str) -> "type[Backend]":
    """The class of a known name; this imports its packages, as far as they are there.

    Raises:
        DistillensError: no such backend.
    """
    place = backend_entry(name).place
    if not isinstance(place, str):
        return place
    module, _, attribute = place.partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found
