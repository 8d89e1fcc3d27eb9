"""Shards: safetensors files of many rows' states, each with a small JSON file that vouches for it.

Both appear whole or not at all, the JSON file last: a shard without one was never finished.
"""

import contextlib
import json
import os
import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class ShardIndex:
    """What is in a shard.

    Attributes:
        rows: (row id, number of its positions), in their order in the tensors.
        dtypes: of each state as the teacher computed it, such as `float32`.
        num_bytes, crc32: of the safetensors file.
    """

    rows: list[tuple[str, int]]
    dtypes: dict[str, str]
    num_bytes: int
    crc32: int


def write_shard(
    path: Path, tensors: dict[str, Tensor], rows: list[tuple[str, int]], dtypes: dict[str, str]
) -> ShardIndex:
    """Writes `path` (.safetensors) and its index beside it.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing half-written is left.
    """
    partial, placed = path.with_suffix(".partial"), False
    try:
        save_file(tensors, partial)
        index = ShardIndex(rows, dtypes, partial.stat().st_size, _crc32(partial))
        _sync(partial)
        os.replace(partial, path)
        placed = True
        partial.write_text(json.dumps(asdict(index)), encoding="utf-8")
        _sync(partial)
        os.replace(partial, _index_path(path))
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if placed:  # without its index it would only be in the way
            delete_shard(path)
        # safetensors reports a full disk by an exception of its own.
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise OSError(str(error)) from error
        raise
    return index


def read_index(path: Path) -> ShardIndex:
    """The index of a shard.

    Raises:
        ValueError: it is missing or not an index.
    """
    try:
        fields = json.loads(_index_path(path).read_text(encoding="utf-8"))
        rows = [(str(row_id), int(count)) for row_id, count in fields.pop("rows")]
        return ShardIndex(rows=rows, **fields)
    except (OSError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path.name} has no readable index") from error


def shard_paths(folder: Path) -> list[Path]:
    """The finished shards of a folder, in the order of their names."""
    return sorted(path.with_suffix(".safetensors") for path in folder.glob("shard-*.json"))


def find_torn(folder: Path) -> list[Path]:
    """Shards that do not match their index: truncated, damaged or without an index.

    Reads every byte once per run, which costs little compared with an epoch of the teacher.
    """
    paths = {*shard_paths(folder), *folder.glob("shard-*.safetensors")}
    return sorted(path for path in paths if not _is_whole(path))


def _is_whole(path: Path) -> bool:
    try:
        index = read_index(path)
        facts = path.stat()
        if facts.st_size != index.num_bytes:
            return False
        return _known_crc32(path, facts.st_size, facts.st_mtime_ns) == index.crc32
    except (OSError, ValueError):
        return False


def delete_shard(path: Path) -> None:
    """Removes a shard; its rows are then missing and will be computed again."""
    _index_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def delete_unfinished(folder: Path) -> None:
    """Removes what a killed run was writing."""
    for path in folder.glob("shard-*.partial"):
        path.unlink(missing_ok=True)


def _index_path(path: Path) -> Path:
    return path.with_suffix(".json")


@lru_cache(maxsize=100_000)
def _known_crc32(path: Path, num_bytes: int, changed_at_ns: int) -> int:
    # A run looks at its cache twice: before the teacher is loaded, and when it takes the lock.
    return _crc32(path)


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sync(path: Path) -> None:
    # Without it a power cut can leave the name in place and the content not.
    with path.open("rb") as file, contextlib.suppress(OSError):
        os.fsync(file.fileno())
