"""The chosen backend before its weights are loaded: arguments checked, model identified."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.backends.base import Backend
from eval_harness.backends.table import backend_class, backend_entry
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.identity import ModelFiles, placed, read_model
from eval_harness.shared.model_folder.trust import (
    MODEL_FLAG,
    check_folder,
    check_model_args,
    given_remote_code,
)

MODEL_KEYS = ("pretrained", "revision", "tokenizer", "peft", "max_length", "add_bos_token")


@dataclass(frozen=True)
class Engine:
    """What `run` needs from a backend.

    Attributes:
        facts: of the model.
        identity: of the model, for the fingerprint: files, weights' type, arguments that matter.
        versions: of the packages that answers depend on, and what draws random numbers.
        load: (max_length=..., no_repeat_ngrams=...) -> a backend with weights.
        release: what is done with it when it is no longer needed.
        backend, arguments, trust_remote_code: what `load` was made from.
    """

    facts: ModelFiles
    identity: dict[str, Any]
    versions: dict[str, str]
    load: Callable[..., Backend]
    backend: type[Backend]
    arguments: dict[str, Any]
    trust_remote_code: bool
    release: Callable[[Backend], None] = lambda backend: backend.close()


def choose_engine(
    model: str,
    model_args: dict[str, Any],
    *,
    default_dtype: str | None = None,
    trust_remote_code: bool = False,
    working_folder: Path | None = None,
    sampled: bool = False,
) -> Engine:
    """Checks --model and --model_args, and reads everything about the model but its weights.

    Args:
        model: a name of `BACKENDS`.
        model_args: parsed; `dtype` and `trust_remote_code` in it override the two arguments below.
        default_dtype: the protocol's.
        trust_remote_code: allow code that comes with the model, and arguments that can run code.
        working_folder: where paths in model_args count from; None: this process's own.
        sampled: answers will depend on random numbers.
    Raises:
        DistillensError: an unknown model or argument, one that needs trust (see `trust`), no usable
            vLLM, or an unreadable model.
    """
    entry = backend_entry(model)
    given = dict(model_args)
    own = {key: given.pop(key) for key in MODEL_KEYS if key in given}
    _check_names(model_args)
    if own.get("pretrained") in (None, ""):
        named = [model_args[key] for key in entry.model_keys if model_args.get(key)]
        own["pretrained"] = named[0] if named else None
    if own["pretrained"] is None:
        raise DistillensError(
            "--model_args: no pretrained=..., expected a model folder or Hub name"
        )
    typed = given_remote_code(model_args, "--model_args")
    trusted = trust_remote_code if typed is None else typed
    check_model_args(model, model_args, trusted=trusted, where="--model_args", flag=MODEL_FLAG)
    for name in (own["pretrained"], own.get("peft")):
        if name is not None:
            place = Path(placed(str(name), working_folder))
            check_folder(place, trusted=trusted, flag=MODEL_FLAG)
    backend = backend_class(model)
    backend.check_usable()
    given.pop("trust_remote_code", None)
    dtype = str(given.pop("dtype", default_dtype or "auto"))
    arguments = backend.arguments({**given, "dtype": dtype})
    facts = read_model(
        str(own["pretrained"]),
        revision=own.get("revision"),
        tokenizer=own.get("tokenizer"),
        adapter=own.get("peft"),
        max_length=_max_length(own.get("max_length")),
        trust_remote_code=trusted,
        must_build=backend.needs_transformers_model,
        must_have_weights=backend.needs_weights,
        working_folder=working_folder,
    )
    for folder in filter(None, (facts.folder, facts.adapter)):
        check_folder(folder, trusted=trusted, flag=MODEL_FLAG)  # also those from the Hub
    facts = backend.described(facts, arguments)
    if dtype == "auto" and backend.needs_weights:
        # Explicit, since vLLM's "auto" would turn a float32 checkpoint into half precision.
        arguments["dtype"] = facts.checkpoint_dtype
    identity = {
        **facts.identity,
        "dtype": arguments["dtype"],
        "arguments": {
            key: value for key, value in given.items() if key not in backend.layout_arguments
        },
    }
    versions = {"backend": model, **backend.versions()}
    if sampled and (kind := backend.sampled_on(arguments)):
        # Not in `identity`: greedy answers to another task are still of the same model.
        versions["sampled_on"] = kind
    load = _loader(backend, facts, arguments, trusted)
    return Engine(facts, identity, versions, load, backend, arguments, trusted)


def check_backend_arguments(model: str, model_args: dict[str, Any]) -> None:
    """Checks the backend's own arguments early, unless that needs packages that may be missing.

    Args:
        model: a name of `BACKENDS`.
        model_args: parsed; those that every backend takes are not checked.
    Raises:
        DistillensError: an unknown backend or argument, or a wrong value.
    """
    if backend_entry(model).checks_anywhere:
        own = {key: value for key, value in model_args.items() if key not in MODEL_KEYS}
        own.pop("trust_remote_code", None)
        backend_class(model).arguments(own)


def _check_names(model_args: dict[str, Any]) -> None:
    for key in ("pretrained", "revision", "tokenizer", "peft"):
        value = model_args.get(key)
        if value is not None and not isinstance(value, str):
            raise DistillensError(
                f"--model_args {key} = {value!r} is {type(value).__name__}, expected a text; put "
                "it in quotes, since YAML reads it as a number otherwise"
            )


def _max_length(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise DistillensError(f"max_length = {value!r}, expected an integer of at least 2")
    return value


def _loader(
    backend: type[Backend], facts: ModelFiles, arguments: dict[str, Any], trust_remote_code: bool
) -> Callable[..., Backend]:
    def load(*, max_length: int, no_repeat_ngrams: bool) -> Backend:
        return backend.load(
            facts,
            arguments,
            max_length=max_length,
            no_repeat_ngrams=no_repeat_ngrams,
            trust_remote_code=trust_remote_code,
        )

    return load
