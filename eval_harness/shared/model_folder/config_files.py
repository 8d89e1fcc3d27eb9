"""config.json and generation_config.json of a model folder, checked before a library reads them.

A model class builds a module for each layer, so a config with 10^9 layers would run for hours:
numbers beyond every real model are refused by key.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import (
    numbers,
    read_json_object,
    refuse_huge_numbers,
    shown,
)

_MAX_CONFIG_BYTES = 10_000_000
# (what, keys, largest value); the first match counts. The largest known models have 126 layers,
# vocabularies of 262,144 ids and 512 experts in a layer.
_LIMITS = (
    ("layers", re.compile(r"^(?!max_window).*(^|_)(layers?|blocks)$"), 500),
    ("experts", re.compile(r"experts$"), 10_000),
    ("attention heads", re.compile(r"heads?(_num)?$"), 100_000),
    ("ids", re.compile(r"vocab(ulary)?_size$"), 100_000_000),
    (
        "a width",
        re.compile(r"(_size|_dims?|_width|_rank|_channels|_kernel)$|^(d_\w+|dff|n_embd|n_inner)$"),
        10_000_000,
    ),
    ("positions", re.compile(r"positions?(_embeddings)?$|^n_ctx$|seq_len(gth)?$"), 2_000_000_000),
    ("a count", re.compile(r"^(n|num)_(?!.*(token|step|param|sample))"), 10_000_000),
)
# Keys for which counting from the end makes no sense (a vision model's feature layer may be -2).
_NEVER_NEGATIVE = re.compile(r"^(n|num)_.*(layers?|blocks|heads?|experts)$|vocab_size$")
# Architectures whose positions see later ones, or that do not predict a next token.
_NOT_CAUSAL = re.compile(
    r"For(MaskedLM|PreTraining|NextSentencePrediction|MultipleChoice|QuestionAnswering"
    r"|\w*Classification|\w*Embedding)$"
)
_ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a folder's config.json.

    Raises:
        DistillensError: missing, not a JSON object, beyond any real model, or not a causal model's.
    """
    path = folder / "config.json"
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        # transformers would load the base model that the adapter names, wherever it is.
        todo = (
            "name the base model instead, and this folder as its adapter"
            if not path.exists()
            else "move the adapter's files into a folder of their own"
        )
        raise DistillensError(f"{adapter}: found a peft adapter where a model is expected; {todo}")
    fields = read_json_object(path, max_bytes=_MAX_CONFIG_BYTES)
    try:
        check_config(fields)
    except DistillensError as error:
        raise DistillensError(f"{path}: {error}") from error
    return fields


def check_config(fields: Mapping[str, Any]) -> None:
    """Refuses numbers beyond every real model, and architectures that are not causal.

    Args:
        fields: of a config.json, or of a recipe's `init.config`.
    Raises:
        DistillensError: names key and value.
    """
    if not isinstance(fields.get("model_type"), str):
        raise DistillensError(
            f"model_type = {shown(fields.get('model_type'))}, expected a text such as 'gpt2'"
        )
    for place, key, value in numbers(dict(fields)):
        _check_number(place, key, value)
    architectures = fields.get("architectures")
    if architectures is not None:
        if not isinstance(architectures, list) or not all(
            isinstance(name, str) for name in architectures
        ):
            raise DistillensError(
                f"architectures = {shown(architectures)}, expected a list of class names"
            )
        if architectures and all(_NOT_CAUSAL.search(name) for name in architectures):
            raise DistillensError(
                f"architectures = {shown(architectures)}, expected a causal language model such as "
                "GPT2LMHeadModel or LlamaForCausalLM"
            )
    quantization = fields.get("quantization_config")
    if quantization is not None and not (
        isinstance(quantization, dict) and isinstance(quantization.get("quant_method"), str)
    ):
        raise DistillensError(
            f"quantization_config = {shown(quantization)}, expected an object with quant_method"
        )


def _check_number(place: str, key: str, value: int | float) -> None:
    for what, keys, largest in _LIMITS:
        if keys.search(key):
            if abs(value) > largest:
                raise DistillensError(
                    f"{place} = {shown(value)}, expected at most {largest} ({what})"
                )
            if value < 0 and _NEVER_NEGATIVE.search(key):
                raise DistillensError(f"{place} = {shown(value)}, expected at least 0 ({what})")
            return
    if isinstance(value, int) and abs(value) >= 2**63:
        raise DistillensError(f"{place} = {shown(value)}, expected a number that fits in 64 bits")


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The fields of generation_config.json with its special ids checked; empty if there is none.

    Raises:
        DistillensError: not a JSON object, or invalid ids; the line names file and key.
    """
    path = folder / "generation_config.json"
    if not path.exists():
        return {}
    fields = read_json_object(path, max_bytes=_MAX_CONFIG_BYTES)
    refuse_huge_numbers(path, fields)
    for key in _ID_KEYS:
        try:
            token_ids(fields.get(key))
        except ValueError as error:
            raise DistillensError(f"{path}: {key} = {error}") from error
    return fields


def token_ids(value: Any) -> list[int]:
    """The ids in an `eos_token_id`: one, several or none.

    Raises:
        ValueError: anything else; its text gives the value and what was expected.
    """
    found = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(token) is int for token in found):
        raise ValueError(f"{shown(value)}, expected a token id, a list of them, or null")
    return found
