"""What a cache was made from: another teacher, other rows or layers must never be mixed in.

Two formats are read. Format 2 hashes the teacher's files and names the engine that computed the
states. Format 1, of older versions, hashed the weights in memory, so that only a run that has
loaded the whole teacher can compare them.
"""

import hashlib
import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from distillens_plugin.data.dataset import InstructionDataset
from distillens_plugin.teacher_cache.checkpoint_hash import PROVENANCE
from eval_harness.errors import DistillensError

FINGERPRINT = "fingerprint.json"
# The engine of a run that fills its cache in its first epoch.
TRAINING = "training"
_NAMES = {
    "format": "format of the cache",
    "teacher": "teacher's weights",
    "adapter": "teacher's adapter",
    "config": "teacher's configuration",
    "rows": "training rows",
    "template": "template",
    "states": "teacher layers",
    "dtype": "teacher_cache.dtype",
    "precision": "mixed_precision",
}
_ENGINE_NAMES = {"dtype": "dtype of the teacher", "precision": "mixed_precision"}
# A patch release may be changed within a fill: it mends, and does not compute otherwise.
_MINOR = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Fingerprint:
    """All that decides what is in a cache.

    Attributes:
        teacher, adapter, config, rows: hashes of content; adapter is `none` without one.
        template: of the training data; also part of `rows`, and here for a readable refusal.
        states: names of what is stored at each position.
        dtype: how it is stored.
        engine: `StatesEngine.identity` of what computed the states.
        format: of the files.
    """

    teacher: str
    adapter: str
    config: str
    rows: str
    template: str
    states: tuple[str, ...]
    dtype: str
    engine: Mapping[str, str]
    format: int = 2

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def differences(self, stored: object) -> list[str]:
        """What keeps a run from reading a cache, one phrase each.

        The engine does not, except that a run which fills its own cache promises the same losses
        whether it computes a state or reads it: its type and precision must then be the same.

        Args:
            stored: from the folder's fingerprint.json.
        """
        if not isinstance(stored, dict):
            return ["its fingerprint cannot be read"]
        own = json.loads(self.to_json())
        engine = own.pop("engine")
        phrases = _content_phrases(own, stored)
        given = engine_of(stored)
        if given.get("engine") == TRAINING == engine["engine"]:
            phrases += _phrases(_only(engine, _ENGINE_NAMES), given, _ENGINE_NAMES)
        return phrases

    def engine_differences(self, stored: object) -> list[str]:
        """What keeps a run from adding rows to a cache that it may read, one phrase each."""
        own, given = dict(self.engine), engine_of(stored)
        keys = sorted(own.keys() | given.keys())
        return [
            f"{_ENGINE_NAMES.get(key, key)}: {given.get(key, 'none')} there, "
            f"{own.get(key, 'none')} here"
            for key in keys
            if _comparable(key, own.get(key)) != _comparable(key, given.get(key))
        ]


@dataclass(frozen=True)
class FingerprintOne:
    """Format 1: `teacher` is `hash_weights`, `config` is `hash_config` of the loaded model."""

    teacher: str
    config: str
    rows: str
    template: str
    states: tuple[str, ...]
    dtype: str
    precision: str
    format: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def differences(self, stored: object) -> list[str]:
        """What keeps a run from using a cache, one phrase each."""
        if not isinstance(stored, dict):
            return ["its fingerprint cannot be read"]
        return _content_phrases(json.loads(self.to_json()), stored)


def read_fingerprint(folder: Path) -> object | None:
    """What a folder's fingerprint.json holds; None if there is none."""
    path = folder / FINGERPRINT
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "unreadable"


def format_of(stored: object, where: str) -> int:
    """1 or 2.

    Args:
        where: the recipe's key and the folder, for errors.
    Raises:
        DistillensError: it is of a later version.
    """
    found = stored.get("format") if isinstance(stored, dict) else None
    if isinstance(found, int) and found > 2:
        raise DistillensError(
            f"{where}: its format is {found}, and this version reads 1 and 2; update, or name "
            "another path"
        )
    return 1 if found == 1 else 2


def engine_of(stored: object) -> dict[str, str]:
    """The engine that filled a cache; that of format 1 is training."""
    if not isinstance(stored, dict):
        return {}
    engine = stored.get("engine")
    if isinstance(engine, dict):
        return {str(key): str(value) for key, value in engine.items()}
    return {"engine": TRAINING}


def is_quantised(engine: Mapping[str, str]) -> bool:
    """Whether an engine (of `engine_of`) ran the teacher in fewer bits than its weights have."""
    return engine.get("quantisation", "none") not in ("none", "None", "")


def unread_states(states: Sequence[str], stored: object) -> list[str]:
    """What a cache holds beyond what a recipe reads, if it holds all of that.

    Such a cache serves the recipe when it is full. It cannot add rows, which would lack these.
    """
    held = stored.get("states") if isinstance(stored, dict) else None
    names = [name for name in held if isinstance(name, str)] if isinstance(held, list) else []
    return [name for name in names if name not in states] if set(states) <= set(names) else []


def _content_phrases(own: dict[str, Any], stored: Mapping[str, object]) -> list[str]:
    # A cache with more states than this run reads has those that it reads.
    if unread_states(own["states"], stored):
        own = {**own, "states": stored["states"]}
    return _phrases(own, stored, _NAMES)


def _comparable(key: str, value: str | None) -> str | None:
    minor = _MINOR.match(value) if key.endswith("version") and value is not None else None
    return value if minor is None else minor.group()


def _only(fields: Mapping[str, str], keys: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in fields.items() if key in keys}


def _phrases(
    own: Mapping[str, object], stored: Mapping[str, object], names: Mapping[str, str]
) -> list[str]:
    return [
        f"{names[name]}: {_short(stored.get(name))} there, {_short(value)} here"
        for name, value in own.items()
        if stored.get(name) != value
    ]


def _short(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_hash else text


def hash_weights(model: nn.Module) -> str:
    """For format 1: SHA-256 over names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    for name, tensor in sorted(model.state_dict().items()):
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride())
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # A tied embedding is one tensor under two names.
        if tensor.numel() and identity not in seen:
            seen.add(identity)
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(content.numpy())
    return digest.hexdigest()


def hash_config(config: PretrainedConfig) -> str:
    """For format 1: SHA-256 of a configuration without the keys that describe its origin."""
    fields = {k: v for k, v in config.to_dict().items() if k not in PROVENANCE}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def hash_rows(examples: InstructionDataset) -> str:
    """SHA-256 of the ids, token ids and labels of all rows, in order."""
    digest = hashlib.sha256()
    for index in range(len(examples)):
        example = examples[index]
        digest.update(f"{example['id']}\n{len(example['input_ids'])}\n".encode())
        digest.update(array("q", example["input_ids"]).tobytes())
        digest.update(array("q", example["labels"]).tobytes())
    return digest.hexdigest()
