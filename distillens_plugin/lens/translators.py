"""The tuned lens: an affine translator for each layer of a teacher, kept in one safetensors file.

A residual stream h after k blocks is read as readout(h + h A_k^T + b_k) instead of readout(h): the
translator undoes what later blocks would do to the basis. A_k = 0, b_k = 0 is the logit lens.

Source: Belrose et al. 2023, arXiv 2303.08112, eq. 4 (there A_k includes the identity).

Legend: N rows, D width, L blocks.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import whole_file

_FORMAT = "distillens.translators"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class TranslatorInfo:
    """The header of a file of translators.

    Attributes:
        num_layers, width: of the teacher that they were trained for.
        layers: those with a translator; k is the residual stream after k blocks.
        weights: digest of that teacher's weights; None if unknown.
    """

    num_layers: int
    width: int
    layers: tuple[int, ...]
    weights: str | None = None

    def check(self, layers: Sequence[Any], num_layers: int, width: int, where: str) -> None:
        """Refuses another teacher, or layers without a translator.

        The last layer (num_layers) needs none: the readout is trained on it.
        """
        if (self.num_layers, self.width) != (num_layers, width):
            raise DistillensError(
                f"{where}: these translators are for {self.num_layers} layers of width "
                f"{self.width}, but the teacher has {num_layers} of width {width}; train them with "
                "`distillens tune-lens` on this teacher"
            )
        missing = [k for k in layers if k not in self.layers and k != num_layers]
        if missing:
            raise DistillensError(
                f"{where}: there is no translator for the teacher's layer {missing[0]} (found: "
                f"{', '.join(map(str, self.layers))}); train one or choose other layers"
            )

    def check_weights(self, teacher: str | os.PathLike[str], where: str) -> None:
        """Refuses a teacher in a local folder that has been trained further since.

        Its sizes are the same, but its layers have changed.
        """
        found = weights_digest(teacher)
        if None not in (self.weights, found) and found != self.weights:
            raise DistillensError(
                f"{where}: these translators were trained on other weights than those in "
                f"{os.fspath(teacher)}; train them again with `distillens tune-lens`"
            )


def weights_digest(teacher: str | os.PathLike[str]) -> str | None:
    """Sixteen hexadecimal digits over the weights in a local folder; None if it has none."""
    folder = os.fspath(teacher)
    files = sorted(p for p in Path(folder).glob("*") if folder and p.suffix in _WEIGHTS)
    if not files:
        return None
    hashes = []
    for path in files:
        with open(path, "rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digest(hashes)


def read_info(path: str | os.PathLike[str], where: str) -> TranslatorInfo:
    """Reads a file's header.

    Raises:
        DistillensError: missing, or not a file that `distillens tune-lens` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            info = (file.metadata() or {}).get(_FORMAT)
        fields = json.loads(info) if info is not None else {}
        return TranslatorInfo(
            fields["num_layers"],
            fields["width"],
            tuple(fields["layers"]),
            fields.get("notes", {}).get("teacher_weights"),
        )
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = "there is no such file" if not os.path.isfile(path) else "the file holds none"
        raise DistillensError(
            f"{where}: cannot read translators from {os.fspath(path)}: {reason}; expected a file "
            "that `distillens tune-lens` wrote"
        ) from error


class Translators:
    """The translators of some layers, loaded once; they are applied, never trained.

    Args:
        path: of the file.
        layers: those needed; others stay on disk.
        num_layers, width: of the teacher.
        where: what errors begin with.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layers: Sequence[Any],
        *,
        num_layers: int,
        width: int,
        where: str,
    ) -> None:
        info = read_info(path, where)
        info.check(layers, num_layers, width, where)
        self._maps: dict[int, tuple[Tensor, Tensor]] = {}
        with safe_open(path, framework="pt") as file:
            for layer in layers:
                if layer in info.layers:
                    names = (f"layers.{layer}.weight", f"layers.{layer}.bias")
                    weight, bias = (file.get_tensor(name) for name in names)
                    self._maps[layer] = (weight.float(), bias.float())

    def apply(self, layer: int | str, rows_ND: Tensor) -> Tensor:
        """[N, D] -> [N, D] in the type of the rows; the last layer comes back as it is."""
        if not isinstance(layer, int) or layer not in self._maps:
            return rows_ND
        weight, bias = (tensor.to(rows_ND.device) for tensor in self._maps[layer])
        self._maps[layer] = (weight, bias)
        with torch.autocast(rows_ND.device.type, enabled=False):
            rows = rows_ND.float()
            return (rows + rows @ weight.T + bias).to(rows_ND.dtype)


def save_translators(
    path: str | os.PathLike[str],
    maps: Mapping[int, tuple[Tensor, Tensor]],
    *,
    num_layers: int,
    notes: Mapping[str, Any],
) -> None:
    """Writes (A_k [D, D], b_k [D]) of each layer; the file appears whole or not at all.

    Args:
        notes: what they were trained on and how, for people; strict JSON.
    Raises:
        RunFailure: the file cannot be written.
    """
    layers = sorted(maps)
    width = len(maps[layers[0]][1])
    tensors = {}
    for layer in layers:
        for name, tensor in zip(("weight", "bias"), maps[layer], strict=True):
            tensors[f"layers.{layer}.{name}"] = tensor.detach().float().cpu().contiguous()
    fields = {"num_layers": num_layers, "width": width, "layers": layers}
    # One entry: with several, safetensors writes them in an order that changes from run to run.
    metadata = {_FORMAT: json.dumps({**fields, "notes": dict(notes)}, allow_nan=False)}
    target = Path(path)
    try:
        with whole_file(target) as partial:
            save_file(tensors, partial, metadata=metadata)
    except SafetensorError as error:  # raised when the disk is full, among others
        raise RunFailure(f"{target}: cannot write the translators ({error})") from error
