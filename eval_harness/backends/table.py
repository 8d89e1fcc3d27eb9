"""The table of backends, and how to add your own; importing it loads nothing heavy."""

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
        model_keys: of --model_args: what names the model's files; the first that is given counts.
    """

    place: "str | type[Backend]"
    summary: str = ""
    checks_anywhere: bool = True
    model_keys: tuple[str, ...] = ("pretrained",)


# The first one is the default of `eval-harness run`.
BACKENDS: dict[str, BackendEntry] = {
    "vllm": BackendEntry(
        "eval_harness.backends.vllm:VllmBackend", "the fastest", checks_anywhere=False
    ),
    "hf": BackendEntry(
        "eval_harness.backends.transformers:TransformersBackend", "transformers, runs anywhere"
    ),
    "server": BackendEntry(
        "eval_harness.backends.server:ServerBackend",
        "an OpenAI-compatible endpoint",
        # As in lm-eval, the server's name for the model may be one of the Hub.
        model_keys=("pretrained", "tokenizer", "model"),
    ),
}
_OURS = frozenset(BACKENDS)


def register_backend(name: str, backend: "type[Backend]", *, summary: str = "") -> None:
    """Adds your own backend, for this process.

    Args:
        name: for `evaluate(..., backend=name)`. Registering a name again replaces its class.
        backend: see `Backend` for the methods to write and to override.
        summary: a few words for help texts.
    Raises:
        DistillensError: a built-in name, an empty or unprintable one, or a class that is no
            `Backend` or lacks `generate` or `name`.
    """
    if not name or name in _OURS:
        raise DistillensError(f"backend {name!r}: empty or built in; choose another name")
    if not isinstance(name, str) or not name.isprintable() or not name.strip():
        raise DistillensError(f"backend {name!r}: expected a name of printable characters")
    from eval_harness.backends.base import Backend

    if not isinstance(backend, type) or not issubclass(backend, Backend):
        raise DistillensError(f"backend {name!r}: {backend!r} is not a subclass of Backend")
    lacking = sorted(backend.__abstractmethods__ | {"name"} - set(dir(backend)))
    if lacking:
        raise DistillensError(f"backend {name!r}: {backend.__name__} has no {lacking[0]}")
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
            f"{where} {name}: not known, expected "
            f"{' or '.join(BACKENDS)}{near_names(name, BACKENDS)}"
        )
    return BACKENDS[name]


def backend_class(name: str) -> "type[Backend]":
    """The class of a known name; this imports the packages it needs, if they are installed.

    Raises:
        DistillensError: no such backend.
    """
    place = backend_entry(name).place
    if not isinstance(place, str):
        return place
    module, _, attribute = place.partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found
