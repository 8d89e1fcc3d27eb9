"""What a teacher's files hold, as one hash: read from the files, never into a model.

Content counts, not file names: a checkpoint that was copied, or cut into other shards, is the same.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import read_json_object
from eval_harness.shared.model_folder.checkpoint_files import pickled_tensors, stored_tensors
from eval_harness.shared.model_folder.foreign_errors import foreign_errors
from eval_harness.shared.model_folder.safetensors_header import read_header

# Not part of the hash: these describe where a model came from, not what it computes.
PROVENANCE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
_ADAPTER_PROVENANCE = ("base_model_name_or_path", "revision", "inference_mode", "peft_version")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_BLOCK_BYTES = 1 << 24
# Hashing releases Python's lock; a disk seldom feeds more threads than these.
_NUM_THREADS = 8
_MAX_CONFIG_BYTES = 10_000_000

# One tensor: name, type, shape, SHA-256 of its bytes.
_Entry = tuple[str, str, tuple[int, ...], str]


def hash_checkpoint(folder: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors of a model folder's weights.

    Raises:
        DistillensError: weights are missing, truncated or damaged.
    """
    named = read_json_object(folder / "config.json", max_bytes=_MAX_CONFIG_BYTES).get(
        "transformers_weights"
    )
    files = sorted({tensor.file for tensor in stored_tensors(folder, named).values()})
    return _hash_files(files)


def hash_adapter(folder: Path | None) -> str:
    """The same of a peft adapter's weights and settings; `none` without one.

    Raises:
        DistillensError: files are missing, truncated or damaged.
    """
    if folder is None:
        return "none"
    files = [folder / name for name in _ADAPTER_WEIGHTS if (folder / name).exists()]
    if not files:
        raise DistillensError(f"{folder}: no {_ADAPTER_WEIGHTS[0]}, expected a peft adapter")
    # One line on a damaged file, as for a model, before its bytes are taken at their word.
    (read_header if files[0].suffix == ".safetensors" else pickled_tensors)(files[0])
    settings = hash_json(folder / "adapter_config.json", without=_ADAPTER_PROVENANCE)
    return hashlib.sha256(f"{settings} {_hash_files(files[:1])}".encode()).hexdigest()


def hash_json(path: Path, *, without: tuple[str, ...] = PROVENANCE) -> str:
    """SHA-256 of a JSON object's fields, in any order.

    Args:
        without: keys that do not count.
    """
    fields = read_json_object(path, max_bytes=_MAX_CONFIG_BYTES)
    kept = {key: value for key, value in fields.items() if key not in without}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _hash_files(files: list[Path]) -> str:
    known = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    entries = sorted(entry for facts in known for entry in _entries(*facts))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


@lru_cache(maxsize=1024)
def _entries(path: Path, num_bytes: int, changed_at_ns: int) -> tuple[_Entry, ...]:
    """Of a file; kept, since a run compares its cache more than once."""
    if path.suffix == ".safetensors":
        return tuple(_safetensors(path))
    return tuple(_pickled(path))


def _safetensors(path: Path) -> Iterator[_Entry]:
    """Hashes the bytes as they lie in the file: no tensor library, any type."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)

    def entry(name: str) -> _Entry:
        fields = header[name]
        start, stop = fields["data_offsets"]
        content = _hash_bytes(path, 8 + length + start, stop - start)
        return name, fields["dtype"], tuple(fields["shape"]), content

    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        yield from threads.map(entry, header)


def _hash_bytes(path: Path, start: int, count: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while count:
            block = file.read(min(count, _BLOCK_BYTES))
            if not block:
                raise DistillensError(f"{path}: truncated; download it again")
            digest.update(block)
            count -= len(block)
    return digest.hexdigest()


def _pickled(path: Path) -> Iterator[_Entry]:
    """Of a .bin file, by a memory map where its format allows one; only numbers are loaded."""
    import torch

    with path.open("rb") as file:
        mapped = file.read(4) == b"PK\x03\x04"
    with foreign_errors(f"{path}: the weights cannot be read"):
        held = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    for name, tensor in held.items():
        if isinstance(tensor, torch.Tensor):
            content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            shape = tuple(tensor.shape)
            yield name, str(tensor.dtype), shape, hashlib.sha256(content).hexdigest()
