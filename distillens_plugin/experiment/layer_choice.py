"""`layers: {auto: K, by: divergence}`: the pairs of a run, measured on some of its rows.

Models are measured while they are whole: before torchdistill's box prepares them, and before FSDP2
takes them to pieces. One process measures; all of them train with its answer.
"""

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Subset

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.data.supervision import Supervised
from distillens_plugin.divergences import Divergence
from distillens_plugin.lens_maps.batches import Batch, lens_batches, num_positions
from distillens_plugin.lens_maps.choice import ChosenPairs, least_divergence
from distillens_plugin.losses.lens import DistillLensLoss
from distillens_plugin.recipe.schema.layers import LayerPairs, unmeasured
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.schema.terms import LensKwargs
from distillens_plugin.storage.main_process import on_main_process, say, say_all

# Supervised positions of these rows that are compared, spread evenly.
MAX_POSITIONS = 2048

# What a term's choice was made from and came to, as layer_pairs.json keeps it.
Record = dict[str, Any]


@dataclass(frozen=True)
class Lens:
    """How a term's layers are read to be compared."""

    norm: str = "identity"
    divergence: str | Divergence = "jsd"
    temperature: float = 1.0
    teacher_translators: str | None = None


def measured(
    recipe: Recipe,
    student: nn.Module,
    teacher: nn.Module | None,
    train: InstructionDataset,
    accelerator: Accelerator,
    *,
    in_place: bool,
) -> tuple[Recipe, dict[str, Record]]:
    """The recipe with the pairs of every term that chooses them by divergence, and the records.

    Args:
        student, teacher: whole; only the main process need have their weights.
        train: the training rows, or the first of a stream.
        in_place: measure the models where they are, on the CPU; else on the accelerator's device.
    Raises:
        DistillensError: more pairs than there are layers, or no supervised position.
    """
    names = unmeasured(recipe.layer_terms())
    if not names:
        return recipe, {}
    assert teacher is not None  # the schema: such a term compares with a teacher

    def measure() -> dict[str, Record]:
        device = torch.device("cpu") if in_place else accelerator.device
        # A run that measures draws the same random numbers as one that is told the pairs.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            models = student.to(device), teacher.to(device)
            with accelerator.autocast():
                return _measure(recipe, names, *models, train, device)

    records = on_main_process(accelerator, measure)
    say_all(accelerator, [_line(name, record) for name, record in records.items()])
    init = recipe.models.trained.init
    if init is not None and init.config is not None:
        say(
            accelerator,
            "note: the student starts from random weights, so its layers were measured before they "
            "mean anything; compare with by: depth",
        )
    pairs = {name: record["measured"] for name, record in records.items()}
    return with_pairs(recipe, pairs), records


def with_pairs(recipe: Recipe, pairs: Mapping[str, Mapping[str, list[int]]]) -> Recipe:
    """A copy of the recipe whose terms have these pairs under `layers.measured`.

    Args:
        pairs: `{"student": [...], "teacher": [...]}` by the term's name.
    """
    copied = recipe.model_copy(deep=True)
    plain = copied.to_plain()["train"]["criterion"]["kwargs"]["sub_terms"]
    for name, found in pairs.items():
        lists = {side: list(layers) for side, layers in found.items()}
        terms = copied.train.criterion.kwargs.sub_terms
        for kwargs in (terms[name].criterion.kwargs, plain[name]["criterion"]["kwargs"]):
            kwargs["layers"] = {**kwargs["layers"], "measured": lists}
    return copied


def _measure(
    recipe: Recipe,
    names: list[str],
    student: nn.Module,
    teacher: nn.Module,
    train: InstructionDataset,
    device: torch.device,
) -> dict[str, Record]:
    records: dict[str, Record] = {}
    # Terms that read alike share a matrix.
    known: list[tuple[Lens, LayerPairs, Record]] = []
    for name in names:
        layers, lens = dict(recipe.layer_terms())[name].layers, lens_of_term(recipe, name)
        where = recipe.where(f"train.criterion.kwargs.sub_terms.{name}.criterion.kwargs.layers")
        same = next((found for *alike, found in known if alike == [lens, layers]), None)
        if same is None:
            started_at = time.perf_counter()
            indices = _rows(recipe, layers, train)
            batches = _thinned(lens_batches(Subset(train, indices), len(indices), device))
            chosen = least_divergence(
                student,
                teacher,
                batches,
                layers.num_pairs,
                norm=lens.norm,
                divergence=lens.divergence,
                temperature=lens.temperature,
                teacher_translators=lens.teacher_translators,
                where=where,
            )
            row_ids = [str(train.rows[index].id) for index in indices]
            same = _record(chosen, lens, row_ids, time.perf_counter() - started_at)
            known.append((lens, layers, same))
        records[name] = same
    return records


def lens_of_term(recipe: Recipe, name: str) -> Lens:
    """A DistillLensLoss's own reading; terms on hidden states, which have none, by the default.

    With `readout: teacher` too each model is read by its own head: no map is trained yet.
    """
    term = recipe.train.criterion.kwargs.sub_terms[name].criterion
    if not isinstance(term.paired(), LensKwargs):
        return Lens()
    loss = DistillLensLoss(**term.kwargs)
    return Lens(loss.norm, loss.divergence, loss.temperature, loss.teacher_translators)


def _rows(recipe: Recipe, layers: LayerPairs, train: InstructionDataset) -> list[int]:
    """Which rows are measured: the same for the same data and seed, whatever runs here."""
    count = min(layers.num_rows, len(train))
    return sorted(random.Random(f"layers:{recipe.seed}").sample(range(len(train)), count))


def _thinned(batches: list[Batch]) -> list[Batch]:
    """Every k-th supervised position, so that each row counts, however long the rows are."""
    step = max(1, math.ceil(num_positions(batches) / MAX_POSITIONS))
    return [
        (batch, Supervised(each.positions[::step], each.labels[::step])) for batch, each in batches
    ]


def _record(chosen: ChosenPairs, lens: Lens, row_ids: list[str], seconds: float) -> Record:
    matrix = chosen.matrix
    divergence = lens.divergence
    return {
        "measured": chosen.layers,
        "mean": chosen.mean,
        "by_depth": None
        if chosen.by_depth is None
        else {**chosen.by_depth[0], "mean": chosen.by_depth[1]},
        "student_layers": list(matrix.student_layers),
        "teacher_layers": list(matrix.teacher_layers),
        "values": [[float(value) for value in row] for row in matrix.values],
        "norm": lens.norm,
        "divergence": divergence if isinstance(divergence, str) else divergence.name,
        "temperature": lens.temperature,
        "teacher_translators": lens.teacher_translators,
        "num_positions": int(matrix.num_positions),
        "rows": row_ids,
        "seconds": seconds,
    }


def _line(name: str, record: Record) -> str:
    found, depth = record["measured"], record["by_depth"]
    if depth is None:
        other = ""
    elif _shown(depth) == _shown(found):
        other = "; by depth they are the same"
    else:
        other = f"; by depth they are {_shown(depth)}, with {depth['mean']:.3g}"
    return (
        f"{name}: layers {_shown(found)} by divergence: {record['divergence']} "
        f"{record['mean']:.3g} nats, {record['num_positions']:,} positions of "
        f"{len(record['rows'])} rows, {record['seconds']:.1f} s{other}; to keep them: --set "
        f"'train.criterion.kwargs.sub_terms.{name}.criterion.kwargs.layers.measured={{student: "
        f"{found['student']}, teacher: {found['teacher']}}}'"
    )


def _shown(lists: Mapping[str, list[int]]) -> str:
    pairs = zip(lists["student"], lists["teacher"], strict=True)
    return ", ".join(f"{a}-{b}" for a, b in pairs)
