"""What a request for states looks like, and the files that answer it.

Both sides use this module: the connector inside vLLM, and the program that fills a cache. A
request carries `kv_transfer_params: {"name": ..., "positions": [...]}`; its answer carries `facts`
there, and an `error` if it failed; the states lie in `FOLDER/NAME.safetensors`.
Legend: N positions, K layers, D width.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.checkpoint_files import stored_tensors

FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{8,64}(-[0-9]{1,12})?")
_TENSOR = "states"
_PIECE = 2**16


@dataclass(frozen=True)
class Asked:
    """What one request wants.

    Attributes:
        name: of its file, without folder and ending.
        positions: in its prompt, ascending.
    """

    name: str
    positions: list[int]


@dataclass(frozen=True)
class Facts:
    """What an engine says about itself with every answer.

    Attributes:
        engine: "vllm" (its own extraction) or "vllm-hooks".
        version: of vLLM.
        dtype, quantisation, kv_cache_dtype: what its numbers were computed in.
        hf_overrides: of the model's configuration, as JSON.
        model: `digest` of the folder that it serves.
        layers: whose states it writes, ascending.
        folder: where it writes them, as that machine names it.
        format: of this exchange.
    """

    engine: str
    version: str
    dtype: str
    quantisation: str
    kv_cache_dtype: str
    hf_overrides: str
    model: str
    layers: list[int]
    folder: str
    format: int = FORMAT

    def to_json(self) -> dict[str, str | int | list[int]]:
        return asdict(self)


def asked(params: object, *, num_tokens: int) -> Asked | str:
    """What a request wants, or why it cannot have it, in one line.

    Args:
        params: its kv_transfer_params, as anybody may have sent them.
        num_tokens: of its prompt.
    """
    if not isinstance(params, dict):
        return 'expected kv_transfer_params: {"name": ..., "positions": [...]}'
    name, positions = params.get("name"), params.get("positions")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "kv_transfer_params.name: expected 8 to 64 hexadecimal digits, then - and a number"
    if not isinstance(positions, list) or not positions:
        return "kv_transfer_params.positions: expected a list with at least one position"
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in positions):
        return "kv_transfer_params.positions: expected integers"
    if positions != sorted(set(positions)):
        return "kv_transfer_params.positions: expected ascending positions, none of them twice"
    if positions[0] < 0 or positions[-1] >= num_tokens:
        wrong = positions[0] if positions[0] < 0 else positions[-1]
        return (
            f"kv_transfer_params.positions: found {wrong}, expected 0 to {num_tokens - 1} for a "
            f"prompt of {num_tokens} tokens"
        )
    return Asked(name, positions)


def write_states(folder: Path, name: str, states_NKD: Tensor) -> None:
    """Writes a request's file in one step: whoever sees it sees all of it.

    A failure is written as well, so that the reader need not wait for it to time out.
    """
    partial = folder / f"{name}.partial"
    try:
        save_file({_TENSOR: states_NKD.contiguous()}, partial)
        os.replace(partial, folder / f"{name}.safetensors")
    except Exception as error:  # the disk is full, the folder is gone: whatever it is, say it
        partial.unlink(missing_ok=True)
        (folder / f"{name}.error").write_text(f"{type(error).__name__}: {error}", "utf-8")


def take_states(folder: Path, name: str) -> Tensor | None:
    """States [N, K, D] of a request, whose file is then removed; None: not there yet.

    Raises:
        OSError: the other side could not write them.
    """
    failed = folder / f"{name}.error"
    if failed.exists():
        raise OSError(failed.read_text("utf-8"))
    path = folder / f"{name}.safetensors"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    path.unlink()
    states = load(content)[_TENSOR]
    assert isinstance(states, torch.Tensor)
    return states


def digest(model: Path) -> str:
    """Of a model folder's weights and configuration, from a few pieces of every file.

    It tells one checkpoint from another without reading 140 GB, on both sides of a network drive.
    Files that no model is loaded from, such as training_args.bin, may be on one side alone.
    """
    try:
        named = json.loads((model / "config.json").read_bytes()).get("transformers_weights")
        tensors = stored_tensors(model, named)
    except (DistillensError, ValueError, AttributeError):
        # Weights in a form that vLLM alone may know, or none: it will say so better.
        return digest_of_all(model)
    return _digest(model, sorted({tensor.file for tensor in tensors.values()}))


def digest_of_all(model: Path) -> str:
    """The same of every file that might hold weights, as older versions gave it."""
    return _digest(model, sorted([*model.glob("*.safetensors"), *model.glob("*.bin")]))


def _digest(model: Path, files: list[Path]) -> str:
    whole = hashlib.sha256((model / "config.json").read_bytes())
    for path in files:
        size = path.stat().st_size
        whole.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(_PIECE, size // 16)):
                file.seek(start)
                whole.update(file.read(_PIECE))
    return whole.hexdigest()
