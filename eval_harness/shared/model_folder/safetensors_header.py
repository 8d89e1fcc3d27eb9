"""The header of a safetensors file, read and checked without its tensors.

The format: 8 bytes with the header's length (little-endian), a JSON object that gives each tensor's
type, shape and place, then the tensors without gaps. https://github.com/huggingface/safetensors
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import regular_size, shown

# The library's own limit; a model of thousands of tensors needs one or two megabytes.
_MAX_HEADER_BYTES = 100_000_000
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_AGAIN = "copy or download the file again"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor on disk: safetensors' name of its type, its shape and its file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name.

    Raises:
        DistillensError: the file is truncated, longer than its header says, or not safetensors.
    """
    size = regular_size(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise DistillensError(
                f"{path}: not a safetensors file, or truncated: it has {size} bytes, but claims a "
                f"header of {length}; {_AGAIN}"
            )
        content = file.read(length)
    try:
        header = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DistillensError(f"{path}: its header is not JSON; {_AGAIN}") from error
    if not isinstance(header, dict):
        raise DistillensError(f"{path}: its header is not a JSON object; {_AGAIN}")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise DistillensError(
            f"{path}: its header's __metadata__ is not an object of texts; {_AGAIN}"
        )
    places = []
    tensors = {}
    for name, entry in header.items():
        tensors[name], place = _tensor(path, name, entry)
        places.append((place, name))
    _check_places(path, places, size - 8 - length)
    return tensors


def _tensor(path: Path, name: str, entry: object) -> tuple[StoredTensor, tuple[int, int]]:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    place: Any = fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise DistillensError(
            f"{path}: tensor {shown(name)} has the unknown type {shown(dtype)}; {_AGAIN}"
        )
    if not _is_sizes(shape) or not _is_sizes(place) or len(place) != 2:
        raise DistillensError(
            f"{path}: tensor {shown(name)} has shape {shown(shape)} and place {shown(place)}, "
            "expected lists of numbers from 0"
        )
    bits = math.prod(shape) * _BITS[dtype]
    if 8 * (place[1] - place[0]) != bits:
        raise DistillensError(
            f"{path}: tensor {shown(name)} of shape {shown(shape)} in {dtype} needs "
            f"{shown(bits // 8)} bytes, but its header gives it {shown(place[1] - place[0])}"
        )
    return StoredTensor(dtype, tuple(shape), path), (place[0], place[1])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_places(path: Path, places: list[tuple[tuple[int, int], str]], num_bytes: int) -> None:
    end = 0
    for (first, last), name in sorted(places):
        if first != end:
            raise DistillensError(
                f"{path}: tensor {shown(name)} starts at byte {first}, expected {end}; {_AGAIN}"
            )
        end = last
    if end != num_bytes:
        state = "truncated" if num_bytes < end else "longer than its header says"
        raise DistillensError(
            f"{path}: the file is {state}: its tensors take {end} bytes, but it holds {num_bytes}; "
            f"{_AGAIN}"
        )
