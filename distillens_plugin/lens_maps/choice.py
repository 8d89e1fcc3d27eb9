"""Layer pairs by measurement: the ascending pairs whose lens readings differ least.

Legend: N supervised positions, A student layers, B teacher layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.data.supervision import Supervised, find_supervised
from distillens_plugin.divergences import Divergence
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.layers import auto_layers, check_measurable
from distillens_plugin.lens.translators import Translators, read_info
from distillens_plugin.lens_maps.batches import Batch, num_positions
from distillens_plugin.lens_maps.matrix import LayerMatrix, layer_matrix
from distillens_plugin.lens_maps.pairs import monotone_pairs
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class ChosenPairs:
    """The pairs of least mean divergence, and what they were chosen from.

    Attributes:
        layers: `{"student": [...], "teacher": [...]}`, ascending.
        mean: over the pairs and positions, in the divergence's unit (nats, for those of the table).
        by_depth: the layers that equal relative depth would give, and their mean; None where they
            were not all measured.
        matrix: every student layer against every teacher layer that was measured.
    """

    layers: dict[str, list[int]]
    mean: float
    by_depth: tuple[dict[str, list[int]], float] | None
    matrix: LayerMatrix


def choose_layers(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    num_pairs: int,
    *,
    norm: str = "identity",
    divergence: str | Divergence = "jsd",
    temperature: float = 1.0,
    teacher_translators: str | None = None,
) -> dict[str, list[int]]:
    """Layer pairs by measured divergence, for the `layers` of AttachedLens or a trainer.

    `layers: {auto: K, by: divergence}` does the same in a recipe.

    Args:
        student, teacher: causal LMs, as they are before training.
        batches: some tens of training rows, as a data loader yields them: mappings with
            `input_ids`, `attention_mask` and `labels` (-100 where nothing is supervised). All of
            them are read, so give a list of a few, not a whole loader.
        num_pairs: at most the number of blocks of the smaller model, less one.
        norm, divergence, temperature, teacher_translators: those of the lens that will be trained.
    Returns:
        `{"student": [...], "teacher": [...]}`, ascending.
    Raises:
        DistillensError: no supervised position, or more pairs than the models have layers for.
    """
    device = next(student.parameters()).device
    return least_divergence(
        student,
        teacher,
        [_with_positions(batch, device) for batch in batches],
        num_pairs,
        norm=norm,
        divergence=divergence,
        temperature=temperature,
        teacher_translators=teacher_translators,
        where="choose_layers",
    ).layers


def least_divergence(
    student: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    num_pairs: int,
    *,
    norm: str,
    divergence: str | Divergence,
    temperature: float,
    teacher_translators: str | None,
    where: str,
) -> ChosenPairs:
    """Measures layers 1 to L - 1 of both models and chooses among them.

    Layers 0 and L are left out, as by the paper's rule: what follows the embeddings has seen no
    other token, and what the last block makes is compared on the final logits.

    Args:
        where: what errors begin with.
    Raises:
        DistillensError: as `choose_layers`.
    """
    depths = lens_of(student).num_layers, lens_of(teacher).num_layers
    check_measurable(num_pairs, *depths, where)
    if num_positions(batches) == 0:
        raise DistillensError(
            f"{where}: the rows that were to be measured have no supervised position; give more "
            "rows, or rows with labels"
        )
    student_layers, teacher_layers = list(range(1, depths[0])), list(range(1, depths[1]))
    translators = None
    if teacher_translators is not None:
        trained = read_info(teacher_translators, where).layers
        teacher_layers = [layer for layer in teacher_layers if layer in trained]
        if len(teacher_layers) < num_pairs:
            raise DistillensError(
                f"{where}: {teacher_translators} has translators for {len(teacher_layers)} of the "
                f"layers 1 to {depths[1] - 1}, fewer than the {num_pairs} pairs; train more, or "
                "choose fewer pairs"
            )
        translators = Translators(
            teacher_translators,
            teacher_layers,
            num_layers=depths[1],
            width=lens_of(teacher).anatomy.width,
            where=where,
        )
    matrix = layer_matrix(
        student,
        teacher,
        batches,
        norm=norm,
        divergence=divergence,
        temperature=temperature,
        translators=translators,
        student_layers=student_layers,
        teacher_layers=teacher_layers,
    )
    places = monotone_pairs(matrix.values, num_pairs)
    pairs = [(student_layers[i], teacher_layers[j]) for i, j in places]
    depth = list(zip(*(auto_layers(num_pairs, num) for num in depths), strict=True))
    measured = all(b in teacher_layers for _, b in depth)
    by_depth = (_as_lists(depth), _mean(matrix, depth)) if measured else None
    return ChosenPairs(_as_lists(pairs), _mean(matrix, pairs), by_depth, matrix)


def _as_lists(pairs: Sequence[tuple[int, int]]) -> dict[str, list[int]]:
    return {"student": [a for a, _ in pairs], "teacher": [b for _, b in pairs]}


def _mean(matrix: LayerMatrix, pairs: Sequence[tuple[int, int]]) -> float:
    rows, columns = list(matrix.student_layers), list(matrix.teacher_layers)
    found = [float(matrix.values[rows.index(a), columns.index(b)]) for a, b in pairs]
    return sum(found) / len(found)


def _with_positions(batch: Mapping[str, Any], device: torch.device) -> Batch:
    missing = [key for key in ("input_ids", "labels") if key not in batch]
    if missing:
        raise DistillensError(
            f"choose_layers: a batch has no {missing[0]} (found: {', '.join(batch)}); give "
            "mappings with input_ids, attention_mask and labels"
        )
    kept = ("input_ids", "attention_mask", "position_ids")
    given = {key: batch[key].to(device) for key in kept if batch.get(key) is not None}
    # Positions that begin anew are how packed rows are told apart, where there is no mask.
    if "position_ids" not in given:
        given.setdefault("attention_mask", torch.ones_like(given["input_ids"]))
    return given, Supervised(*find_supervised(batch["labels"])).to(device)
