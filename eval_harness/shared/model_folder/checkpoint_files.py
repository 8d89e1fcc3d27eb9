"""A model folder's weight files: which there are, whether they are complete, what they hold.

Read before any library opens them, so that errors can name a git-lfs pointer, a missing shard or an
incomplete download.
"""

from pathlib import Path

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import read_json_object, regular_size, shown
from eval_harness.shared.model_folder.foreign_errors import foreign_errors
from eval_harness.shared.model_folder.safetensors_header import StoredTensor, read_header

# In the order in which transformers looks for them.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_MAX_INDEX_BYTES = 100_000_000
_MAX_SHARDS = 10_000
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def weights_file(folder: Path, named: object = None) -> Path:
    """The file that transformers reads the weights from, or their index.

    Args:
        named: `transformers_weights` of config.json, which takes precedence.
    Raises:
        DistillensError: there is no such file.
    """
    if named is not None:
        if not isinstance(named, str) or not _is_plain(named):
            raise DistillensError(
                f"{folder / 'config.json'}: transformers_weights = {shown(named)}, expected the "
                "name of a file in the folder"
            )
        return folder / named
    for name in _WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise DistillensError(
        f"{folder}: no weights, expected model.safetensors, shards with their "
        "model.safetensors.index.json, or pytorch_model.bin"
    )


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a file that transformers would read weights from."""
    return any((folder / name).exists() for name in _WEIGHTS)


def stored_tensors(folder: Path, named: object = None) -> dict[str, StoredTensor]:
    """The tensors in the weight files, by name.

    Args:
        named: `transformers_weights` of config.json.
    Raises:
        DistillensError: weights are missing, truncated or damaged; the line names the file.
    """
    path = weights_file(folder, named)
    if path.name.endswith(".index.json"):
        return _sharded(path)
    if path.suffix == ".safetensors":
        return read_header(path)
    return pickled_tensors(path)


def pickled_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors in a .bin file, by name; nothing but numbers is loaded from it.

    For the zip files that torch has written since 2020, only the list of tensors is read; older
    files can only be read whole.

    Raises:
        DistillensError: it is missing, empty, a git-lfs pointer, of another format, truncated,
            damaged, or holds anything but tensors by name.
    """
    regular_size(path)
    with open(path, "rb") as file:
        start = file.read(len(_ZIP))
    if start != _ZIP and not start.startswith(_PICKLE):
        raise DistillensError(f"{path}: not written by torch.save; download it again")
    import torch

    # A memory map of a zip file leaves the numbers on disk.
    place = {"mmap": True, "map_location": "meta"} if start == _ZIP else {"map_location": "cpu"}
    with foreign_errors(
        f"{path}: the weights cannot be read: the file is truncated, damaged, or holds more than "
        "numbers; download it again"
    ):
        held = torch.load(path, weights_only=True, **place)
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise DistillensError(f"{path}: found a {type(held).__name__}, expected tensors by name")
    return {
        name: StoredTensor(str(tensor.dtype), tuple(tensor.shape), path)
        for name, tensor in held.items()
        if isinstance(tensor, torch.Tensor)
    }


def _sharded(index: Path) -> dict[str, StoredTensor]:
    fields = read_json_object(index, max_bytes=_MAX_INDEX_BYTES)
    for key in ("metadata", "weight_map"):
        if not isinstance(fields.get(key), dict):
            raise DistillensError(f"{index}: {key} = {shown(fields.get(key))}, expected an object")
    placed = fields["weight_map"]
    if not placed:
        raise DistillensError(
            f"{index}: weight_map is empty, expected file names by tensor; download it again"
        )
    shards: dict[str, set[str]] = {}
    for name, shard in placed.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise DistillensError(
                f"{index}: weight_map.{name} = {shown(shard)}, expected a file name in the folder"
            )
        shards.setdefault(shard, set()).add(name)
    if len(shards) > _MAX_SHARDS:
        raise DistillensError(f"{index}: names {len(shards)} files, expected at most {_MAX_SHARDS}")
    tensors: dict[str, StoredTensor] = {}
    for shard, names in sorted(shards.items()):
        path = index.parent / shard
        if not path.exists():
            raise DistillensError(
                f"{path}: this shard of the weights is missing, but {index.name} names it; "
                "download it"
            )
        if path.suffix != ".safetensors":
            tensors |= pickled_tensors(path)
            continue
        held = read_header(path)
        if lost := sorted(names - held.keys()):
            raise DistillensError(
                f"{path}: no tensor {shown(lost[0])}, but {index.name} says it is here; "
                "download both again"
            )
        tensors |= held
    return tensors


def _is_plain(name: str) -> bool:
    return bool(name) and "\0" not in name and Path(name).name == name and name not in (".", "..")
