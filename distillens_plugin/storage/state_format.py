"""Nested Python values with tensors in them as safetensors and JSON: nothing that can run code.

A value is kept as two files of one name:

    optimizer.json          the value itself; for a tensor, {"$tensor": "state/0/exp_avg"}
    optimizer.safetensors   the tensors by those names; not there where there are none

Tensors are named after their place in the value. One that is met again (a tied embedding) is kept
once, under its first name. JSON has objects with text keys and lists only, so what else Python has
is written as an object with one key:

    {"$tuple": [...]}   {"$dict": [[key, value], ...]}   {"$counter": [[key, count], ...]}
    {"$float": "inf"}

Everything comes back with its type, bit for bit. What has no such form is refused when it is kept.
"""

import json
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_Seen = dict[tuple[Any, ...], str]


def write_value(folder: Path, name: str, value: object) -> None:
    """Keeps a value as `<name>.json` and, where there are tensors, `<name>.safetensors`.

    Raises:
        TypeError: it holds something that is neither tensor nor plain value; says where.
        OSError: the files cannot be written.
    """
    plain, tensors = pack(value)
    text = json.dumps(plain, allow_nan=False)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    if not tensors:
        return
    try:
        save_file(tensors, folder / f"{name}.safetensors")
    except OSError:
        raise
    except Exception as error:
        # safetensors reports a full disk by an exception of its own.
        raise OSError(str(error)) from error


def read_value(folder: Path, name: str) -> Any:
    """What `write_value` kept; its tensors lie on the CPU.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is not what `write_value` wrote.
    """
    plain = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    path = folder / f"{name}.safetensors"
    try:
        if not path.exists():
            return unpack(plain, {})
        with safe_open(path, framework="pt") as file:
            return unpack(plain, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except KeyError as error:
        raise ValueError(f"{path}: there is no tensor {error}") from error


def pack(value: object, path: str = "") -> tuple[Any, dict[str, Tensor]]:
    """The plain part of a value, and its tensors by name.

    Raises:
        TypeError: see `write_value`.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(value, path, tensors, {}), tensors


def _pack(value: Any, path: str, tensors: dict[str, Tensor], seen: _Seen) -> Any:
    def inner(item: Any, key: Any) -> Any:
        return _pack(item, f"{path}/{key}" if path else str(key), tensors, seen)

    # bool, int and the like by their very type: numpy's and torch's own come back as other ones.
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Tensor):
        return {"$tensor": _keep(value, path, tensors, seen)}
    if type(value) is list:
        return [inner(item, index) for index, item in enumerate(value)]
    if type(value) is tuple:
        return {"$tuple": [inner(item, index) for index, item in enumerate(value)]}
    if type(value) is Counter:
        return {"$counter": [[inner(key, "key"), count] for key, count in value.items()]}
    if type(value) in (dict, OrderedDict, defaultdict):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: inner(item, key) for key, item in value.items()}
        return {"$dict": [[inner(key, "key"), inner(item, key)] for key, item in value.items()]}
    raise TypeError(f"{path or 'the value'} is a {type(value).__module__}.{type(value).__name__}")


def _keep(tensor: Tensor, path: str, tensors: dict[str, Tensor], seen: _Seen) -> str:
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        raise TypeError(f"{path or 'the value'} is a {type(tensor).__name__} of {tensor.layout}")
    identity = (tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride())
    if tensor.numel() and identity in seen:
        return seen[identity]
    name = path or "value"
    # Two places may have one name, such as the keys 0 and "0".
    while name in tensors:
        name += "'"
    seen[identity] = name
    kept = tensor.detach().to("cpu").contiguous()
    storage = kept.untyped_storage()
    # safetensors refuses views of one storage: each tensor gets bytes of its own.
    shared = storage.nbytes() != kept.numel() * kept.element_size() or any(
        storage.data_ptr() == other.untyped_storage().data_ptr() != 0 for other in tensors.values()
    )
    tensors[name] = kept.clone() if shared else kept
    return name


def unpack(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """The value whose parts `pack` gave.

    Raises:
        ValueError: the plain part holds an unknown mark.
        KeyError: a tensor is missing.
    """
    if isinstance(plain, list):
        return [unpack(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    mark = next(iter(plain), "")
    if not mark.startswith("$"):
        return {key: unpack(item, tensors) for key, item in plain.items()}
    content = plain[mark]
    if mark == "$tensor":
        return tensors[content]
    if mark == "$float":
        return float(content)
    builders: dict[str, Callable[[Any], Any]] = {
        "$tuple": tuple,
        "$dict": dict,
        "$counter": lambda pairs: Counter(dict(pairs)),
    }
    if mark not in builders:
        raise ValueError(f"unknown mark {mark!r}")
    return builders[mark](unpack(content, tensors))
