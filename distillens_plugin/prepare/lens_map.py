"""Measures a lens map: what the lens reads from each layer of one model, or of two, in numbers."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from distillens_plugin.data.supervision import IGNORED
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.translators import Translators, all_translators
from distillens_plugin.lens_maps.batches import Batch, lens_batches, num_positions
from distillens_plugin.lens_maps.matrix import LayerMatrix, layer_matrix
from distillens_plugin.lens_maps.pairs import monotone_pairs
from distillens_plugin.lens_maps.statistics import layer_statistics
from distillens_plugin.lens_maps.tokens import TokenTable, token_table
from distillens_plugin.prepare.lens_pulls import Pulls, Streams
from distillens_plugin.prepare.lens_subjects import RecipeLens, Subject, Subjects
from distillens_plugin.reports.lens_record import LensMap, ModelReadings, PairGradient, PairSet
from eval_harness.errors import DistillensError

TUNED = "tuned"
# As many pairs as the paper takes for most of its models.
_USUAL_PAIRS = 5
# A table wider than this is no longer looked at.
MOST_POSITIONS = 32


def lens_map(
    subjects: Subjects,
    *,
    norms: Sequence[str],
    num_rows: int,
    num_examples: int,
    device: torch.device,
    settings: Mapping[str, Any],
) -> LensMap:
    """Reads every layer of the models on the first rows.

    Args:
        norms: of identity and final. With the subjects' translators, the main model is also read
            through them.
        num_examples: rows whose tokens are shown.
        settings: what was typed, for the record.
    Raises:
        DistillensError: no supervised position in these rows.
    """
    started_at = time.perf_counter()
    batches = lens_batches(subjects.rows, num_rows, device)
    if num_positions(batches) == 0:
        raise DistillensError(
            f"the first {num_rows} rows have no supervised position; read more with --rows"
        )
    for subject in subjects.all:
        subject.model.to(device).eval()
    translators = _translators(subjects)
    matrices, pairs = _matrices(subjects, batches, norms, translators)
    models = [
        _readings(subject, subjects, batches, norms, translators, num_examples)
        for subject in subjects.all
    ]
    lens, gradients = subjects.lens, []
    without = None if lens is None else _why_without_gradients(lens)
    if lens is not None and without is None:
        gradients = _gradients(subjects, lens, batches, norms, pairs)
    return LensMap(
        data=subjects.rows.spec.path,
        num_rows=sum(len(batch["input_ids"]) for batch, _ in batches),
        num_positions=num_positions(batches),
        models=models,
        matrices=matrices,
        pairs=pairs,
        term=None if lens is None else lens.name,
        gradients=gradients,
        without_gradients=without,
        settings={**settings, "max_length": subjects.rows.spec.max_length},
        seconds=time.perf_counter() - started_at,
    )


def _translators(subjects: Subjects) -> Translators | None:
    if subjects.translators is None:
        return None
    lens = lens_of(subjects.main.model)
    return all_translators(
        subjects.translators,
        num_layers=lens.num_layers,
        width=lens.anatomy.width,
        where="--translators",
    )


def _readings(
    subject: Subject,
    subjects: Subjects,
    batches: Sequence[Batch],
    norms: Sequence[str],
    translators: Translators | None,
    num_examples: int,
) -> ModelReadings:
    ways: dict[str, tuple[str, Translators | None]] = {norm: (norm, None) for norm in norms}
    if translators is not None and subject is subjects.main:
        ways[TUNED] = ("final", translators)
    return ModelReadings(
        role=subject.role,
        name=subject.name,
        statistics={
            way: layer_statistics(subject.model, batches, norm=norm, translators=maps)
            for way, (norm, maps) in ways.items()
        },
        examples={
            way: _tables(subject, subjects, norm, maps, num_examples)
            for way, (norm, maps) in ways.items()
        },
    )


def _tables(
    subject: Subject,
    subjects: Subjects,
    norm: str,
    translators: Translators | None,
    num_examples: int,
) -> list[TokenTable]:
    """The tokens of the first rows that have supervised positions."""
    tables: list[TokenTable] = []
    for index in range(len(subjects.rows)):
        if len(tables) == num_examples:
            break
        row = subjects.rows[index]
        positions = [p for p, label in enumerate(row["labels"][1:]) if label != IGNORED]
        if positions:
            table = token_table(
                subject.model,
                subjects.tokenizer,
                row["input_ids"],
                positions=positions[:MOST_POSITIONS],
                norm=norm,
                translators=translators,
            )
            tables.append(table)
    return tables


def _matrices(
    subjects: Subjects,
    batches: Sequence[Batch],
    norms: Sequence[str],
    translators: Translators | None,
) -> tuple[dict[str, LayerMatrix], dict[str, list[PairSet]]]:
    if subjects.other is None:
        return {}, {}
    matrices, pairs = {}, {}
    ways: dict[str, tuple[str, Translators | None]] = {norm: (norm, None) for norm in norms}
    if translators is not None:
        ways[TUNED] = ("final", translators)
    for way, (norm, maps) in ways.items():
        matrices[way] = layer_matrix(
            subjects.other.model,
            subjects.main.model,
            batches,
            norm=norm,
            divergence="jsd",
            translators=maps,
        )
        pairs[way] = _pairs(matrices[way], subjects.lens)
    return matrices, pairs


def _pairs(matrix: LayerMatrix, lens: RecipeLens | None) -> list[PairSet]:
    """The recipe's pairs, and as many of least divergence, from layers 1 to L - 1 of both."""
    depths = len(matrix.student_layers) - 1, len(matrix.teacher_layers) - 1
    found, num_pairs = [], min(_USUAL_PAIRS, *(depth - 1 for depth in depths))
    if lens is not None:
        own = [] if lens.num_pairs is not None else lens.loss.pairs(*depths)
        numbered = [(a, b) for a, b in own if isinstance(a, int) and isinstance(b, int)]
        if numbered:
            found.append(_set("the recipe's", numbered, matrix))
        num_pairs = min(lens.num_pairs or len(own), *(depth - 1 for depth in depths))
    # A model whose numbers overflow has no least divergence.
    if num_pairs > 0 and np.isfinite(matrix.values).all():
        inner = matrix.values[1:-1, 1:-1]
        least = [(i + 1, j + 1) for i, j in monotone_pairs(inner, num_pairs)]
        found.append(_set("least divergent", least, matrix))
    return found


def _set(name: str, pairs: Sequence[tuple[int, int]], matrix: LayerMatrix) -> PairSet:
    values = [float(matrix.values[a, b]) for a, b in pairs]
    return PairSet(name, list(pairs), sum(values) / len(values))


def _why_without_gradients(lens: RecipeLens) -> str | None:
    """Why the gradients of a reading by both models' own heads would not be this term's."""
    if lens.loss.readout == "teacher":
        return "it reads the student by the teacher's head through maps, which only a run trains"
    if lens.loss.teacher_translators is not None:
        return "it reads the teacher through its translators, which these gradients would not"
    if lens.loss.positions.reads_entropy:
        return "it weighs or chooses positions by the teacher's entropy"
    return None


def _gradients(
    subjects: Subjects,
    lens: RecipeLens,
    batches: Sequence[Batch],
    norms: Sequence[str],
    found: Mapping[str, Sequence[PairSet]],
) -> list[PairGradient]:
    assert subjects.other is not None  # a recipe's student
    student, teacher = subjects.other.model, subjects.main.model
    pairs: Sequence[tuple[Layer, Layer]]
    if lens.num_pairs is None:
        pairs = lens.loss.pairs(lens_of(student).num_layers, lens_of(teacher).num_layers)
    else:
        way = lens.loss.norm if lens.loss.norm in found else norms[0]
        # None where no layer lies between the embeddings and the last, or a number is not finite.
        pairs = found[way][-1].pairs if found[way] else []
    if not pairs:
        return []
    with torch.no_grad():
        theirs = Streams(teacher, batches, [b for _, b in pairs])
    ours = Streams(student, batches, [a for a, _ in pairs])
    pulls = Pulls(
        ours,
        theirs,
        lens.loss.divergence,
        lens.loss.temperature,
        detach_unembedding=lens.loss.detach_unembedding,
    )
    return [pulls.of(pair, norm) for pair in pairs for norm in norms]
