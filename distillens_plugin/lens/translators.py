"""The tuned lens: an affine translator for each layer of a teacher, kept in one safetensors file.

A residual stream h after k blocks is read as readout(h + h A_k^T + b_k) instead of readout(h): the
translator undoes what later blocks would do to the basis. A_k = 0, b_k = 0 is the logit lens.

Source: Belrose et al. 2023, arXiv 2303.08112, eq. 4 (there A_k includes the identity).

Legend: N rows, D width, L blocks.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from distillens_plugin.lens.teacher_files import Kind, TeacherFile, read_header, save_layers

_KIND = Kind("distillens.translators", "translators", "translator", "tune-lens", "train", "trained")


def read_info(path: str | os.PathLike[str], where: str) -> TeacherFile:
    """Reads a file's header.

    Raises:
        DistillensError: missing, or not a file that `distillens tune-lens` wrote.
    """
    return read_header(path, _KIND, where)


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


def all_translators(
    path: str | os.PathLike[str], *, num_layers: int, width: int, where: str
) -> Translators:
    """The translators of every layer that a file has one for.

    Args, Raises: as for `Translators`.
    """
    layers = read_info(path, where).layers
    return Translators(path, layers, num_layers=num_layers, width=width, where=where)


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
    named = {k: {"weight": weight, "bias": bias} for k, (weight, bias) in sorted(maps.items())}
    width = len(next(iter(maps.values()))[1])
    save_layers(path, _KIND, named, num_layers=num_layers, width=width, notes=notes)
