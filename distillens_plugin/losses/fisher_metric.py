"""The file of `distillens teacher-fisher`, and the metric that `distillens.hidden_mse` makes of it.

Legend: D width.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.teacher_files import Kind, TeacherFile, read_header, save_layers
from distillens_plugin.losses.unembedding_metric import RIDGE
from eval_harness.errors import DistillensError

FISHER = "fisher"
_KIND = Kind("distillens.fisher", "Fisher matrices", "Fisher matrix", "teacher-fisher")


def read_fisher(path: str | os.PathLike[str], where: str) -> TeacherFile:
    """Reads a file's header.

    Raises:
        DistillensError: missing, or not a file that `distillens teacher-fisher` wrote.
    """
    return read_header(path, _KIND, where)


def save_fisher(
    path: str | os.PathLike[str],
    matrices: Mapping[int, Tensor],
    *,
    num_layers: int,
    notes: Mapping[str, Any],
) -> None:
    """Writes a [D, D] matrix for each layer, in float32.

    Raises:
        RunFailure: the file cannot be written.
    """
    named = {layer: {"fisher": matrix} for layer, matrix in sorted(matrices.items())}
    width = len(next(iter(matrices.values())))
    save_layers(path, _KIND, named, num_layers=num_layers, width=width, notes=notes)


def check_fisher(
    info: TeacherFile, layers: Sequence[Layer], num_layers: int, width: int, where: str
) -> None:
    """Refuses a file that has no matrix for one of these layers of this teacher.

    Raises:
        DistillensError: another teacher's file, or a layer without a matrix.
    """
    for layer in layers:
        if not isinstance(layer, int):
            raise DistillensError(
                f"{where}: the teacher's layer {layer} is a module path; name layers by their "
                "numbers, for which there are Fisher matrices"
            )
    info.check(layers, num_layers, width, where)
    if num_layers in layers:
        raise DistillensError(
            f"{where}: there is no Fisher matrix for the teacher's last layer {num_layers}; "
            "choose layers below it"
        )


@torch.no_grad()
def fisher_metrics(
    path: str | os.PathLike[str],
    layers: Sequence[Layer],
    *,
    num_layers: int,
    width: int,
    where: str,
) -> list[Tensor]:
    """For each layer of the teacher, its Fisher matrix with a ridge and with trace 1.

    Args:
        layers: of the teacher, as the term's pairs name them.
        num_layers, width: of the teacher.
        where: what errors begin with.
    Returns:
        [D, D] float32, symmetric, with trace 1 like I / D, the metric of the mean squared error.
    Raises:
        DistillensError: another teacher's file, or a layer without a matrix.
    """
    check_fisher(read_fisher(path, where), layers, num_layers, width, where)
    found = []
    with safe_open(path, framework="pt") as file:
        for layer in layers:
            matrix = file.get_tensor(f"layers.{layer}.fisher").double()
            ridge = RIDGE * matrix.diagonal().mean()
            matrix = matrix + ridge * torch.eye(width, dtype=matrix.dtype)
            found.append((matrix / matrix.trace()).float())
    return found
