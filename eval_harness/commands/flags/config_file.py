"""--config: a YAML file of flags, under their names, in the types that YAML has for them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from eval_harness.commands.flags.refused import REFUSED, refusal
from eval_harness.commands.flags.run_flags import DEFAULTS
from eval_harness.errors import DistillensError
from eval_harness.shared.files.strict_yaml import read_mapping
from eval_harness.shared.near import near_names
from eval_harness.shared.program.key_values import check_names_are_texts
from eval_harness.shared.shortened import shortened

Value = Any


def read_config(path: str) -> dict[str, Value]:
    """The flags in a file, as the command line's parser would give them.

    Raises:
        DistillensError: not a YAML mapping, an unknown flag (with near names), a flag of lm-eval
            that does not apply, or a value of another kind.
    """
    content, _ = read_mapping(path, what="file of flags", keys="model: and tasks:")
    flags: dict[str, Value] = {}
    for key, value in content.items():
        if key in REFUSED and value not in (None, False, {}):
            raise DistillensError(f"{path}: {refusal(key)}")
        if key not in DEFAULTS and key not in REFUSED:
            raise DistillensError(
                f"{path}: {key!r} is not a flag of eval-harness run{near_names(str(key), DEFAULTS)}"
            )
        # null is a flag that is not given.
        if value is not None and key in DEFAULTS:
            flags[key] = _READERS.get(key, _text)(value, f"{path}: {key}")
    return flags


def _wrong(value: object, where: str, expected: str) -> DistillensError:
    return DistillensError(
        f"{where} = {shortened(repr(value))} is {type(value).__name__}, expected {expected}"
    )


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, where, "a text; write it in quotes")
    return value


def _switch(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, where, "true or false")
    return value


def _written(value: object, where: str) -> str:
    """A number or a text, which the flag itself reads."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong(value, where, "a number or a text")
    return str(value)


def _seeds(value: object, where: str) -> str:
    entries = value if isinstance(value, list) else [value]
    return ",".join(_written(entry, where) for entry in entries)


def _whole(value: object, where: str) -> int:
    least = 0 if where.endswith("num_fewshot") else 1
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise _wrong(value, where, f"an integer from {least} to {2**31 - 1}")
    return value


def _texts(value: object, where: str) -> list[str]:
    return [_text(entry, where) for entry in (value if isinstance(value, list) else [value])]


def _key_values(value: object, where: str) -> list[list[str]]:
    if isinstance(value, str | list):
        return [_texts(value, where)]
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong(value, where, "keys with values, or a text k=v,k=v")
    if where.endswith(("model_args", "gen_kwargs")):
        check_names_are_texts(value, flag=where)
    return [[_json(value, where)]]


def _systems(value: object, where: str) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    return [
        _json(entry, where) if isinstance(entry, Mapping) else _text(entry, where)
        for entry in entries
    ]


def _samples(value: object, where: str) -> str:
    return _json(value, where) if isinstance(value, Mapping) else _text(value, where)


def _data(value: object, where: str) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{task}={_text(file, f'{where}.{task}')}" for task, file in value.items()]
    return _texts(value, where)


def _chat(value: object, where: str) -> str | bool:
    return value if isinstance(value, bool | str) else _switch(value, where)


def _multiturn(value: object, where: str) -> str:
    return str(_switch(value, where)).lower()


def _json(value: object, where: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        raise _wrong(value, where, "texts, numbers, lists and mappings") from None


_SWITCHES = [name for name, default in DEFAULTS.items() if isinstance(default, bool)]
_READERS: dict[str, Callable[[object, str], Value]] = {
    **dict.fromkeys(_SWITCHES, _switch),
    **dict.fromkeys(("limit", "batch_size"), _written),
    **dict.fromkeys(("max_prompt_tokens", "num_fewshot"), _whole),
    **dict.fromkeys(("model_args", "gen_kwargs"), _key_values),
    **dict.fromkeys(("wandb_args", "wandb_config_args", "hf_hub_log_args"), _key_values),
    "tasks": _texts,
    "systems": _systems,
    "data": _data,
    "seed": _seeds,
    "samples": _samples,
    "apply_chat_template": _chat,
    "fewshot_as_multiturn": _multiturn,
}
