"""What a cache was made from: another teacher, other rows or layers must never be mixed in."""

import hashlib
import json
from array import array
from dataclasses import asdict, dataclass

import torch
from torch import nn
from transformers import PretrainedConfig

from distillens_plugin.data.dataset import InstructionDataset

# Not part of the fingerprint: these describe where a model came from, not what it computes.
_PROVENANCE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
_NAMES = {
    "format": "format of the cache",
    "teacher": "teacher's weights",
    "config": "teacher's configuration",
    "rows": "training rows",
    "template": "template",
    "states": "teacher layers",
    "dtype": "teacher_cache.dtype",
    "precision": "mixed_precision",
}


@dataclass(frozen=True)
class Fingerprint:
    """All that decides what is in a cache.

    Attributes:
        teacher, config, rows: hashes of content.
        template: of the training data; also part of `rows`, and here for a readable refusal.
        states: names of what is stored at each position.
        dtype: how it is stored.
        precision: autocast that the teacher ran in.
        format: of the files.
    """

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
        """What differs from the fingerprint read from a folder, one phrase each."""
        if not isinstance(stored, dict):
            return ["its fingerprint cannot be read"]
        own = json.loads(self.to_json())
        return [
            f"{_NAMES[name]}: {_short(stored.get(name))} there, {_short(value)} here"
            for name, value in own.items()
            if stored.get(name) != value
        ]


def _short(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_hash else text


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers, adapters merged.

    Content, not file names: a teacher copied elsewhere is the same teacher.
    """
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
    """SHA-256 of a transformers configuration without the keys that only describe its origin."""
    fields = {k: v for k, v in config.to_dict().items() if k not in _PROVENANCE}
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
