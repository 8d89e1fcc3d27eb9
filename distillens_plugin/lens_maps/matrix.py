"""The divergence between every student layer and every teacher layer, read through the lens.

Legend: N supervised positions, A student layers, B teacher layers, r rows of a chunk, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillens_plugin.divergences import Divergence, make_divergence
from distillens_plugin.divergences.mixtures import JensenShannon
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.translators import Translators
from distillens_plugin.lens_maps.batches import Batch, num_positions
from distillens_plugin.lens_maps.rows import LayerRows, check_batches, chunks, read_rows, reading
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class LayerMatrix:
    """Mean divergences over positions.

    Attributes:
        values: [A, B], in the divergence's unit (nats for those of the table).
        num_positions: N.
        seconds: the measurement took, on the clock.
    """

    student_layers: list[int]
    teacher_layers: list[int]
    values: NDArray[np.float64]
    num_positions: int
    seconds: float
    norm: str
    divergence: str


def layer_matrix(
    student: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    *,
    norm: str = "identity",
    divergence: str | Divergence = "jsd",
    temperature: float = 1.0,
    translators: Translators | None = None,
    student_layers: Sequence[int] | None = None,
    teacher_layers: Sequence[int] | None = None,
) -> LayerMatrix:
    """Compares every layer of a student with every layer of a teacher.

    The cost: one forward pass of each model, (A + B) N products with an unembedding, and A B N V
    numbers that are compared. The logits of a chunk's layers are computed once and compared with
    all others, so that no more than a chunk is held (benchmarks/lens_matrix.py).

    Args:
        student, teacher: causal LMs with one vocabulary, bare or wrapped; read in eval mode.
        batches: from `lens_batches`.
        norm: before the unembeddings, `identity` or `final`.
        divergence: a name of the table, or an object (`divergences.protocol`).
        temperature: divides both models' logits.
        translators: of the teacher, the tuned lens's; needs norm `final`.
        student_layers, teacher_layers: None is all, 0 (the embeddings) to the last.
    Raises:
        DistillensError: no supervised position, no such layer, norm, temperature or divergence, or
            tokens that one of the models does not have.
    """
    started_at = time.perf_counter()
    made = _made(divergence)
    if not temperature > 0:
        raise DistillensError(f"temperature = {temperature}, expected a number above 0")
    ours = _layers(student, student_layers)
    theirs = _layers(teacher, teacher_layers)
    check_batches(batches, student, teacher)
    count = num_positions(batches)
    total = torch.zeros(len(ours), len(theirs), dtype=torch.float64)
    with reading(student, teacher):
        for batch, supervised in batches:
            mine = read_rows(student, batch, supervised, ours, norm=norm)
            other = read_rows(
                teacher, batch, supervised, theirs, norm=norm, translators=translators
            )
            total += _sum(mine, other, (ours, theirs), made, temperature)
    return LayerMatrix(
        ours,
        theirs,
        (total / count).numpy(),
        count,
        time.perf_counter() - started_at,
        norm if translators is None else "tuned",
        made.name,
    )


def _made(divergence: str | Divergence) -> Divergence:
    try:
        return make_divergence(divergence) if isinstance(divergence, str) else divergence
    except ValueError as error:
        raise DistillensError(str(error)) from error


def _layers(model: nn.Module, given: Sequence[int] | None) -> list[int]:
    return list(range(lens_of(model).num_layers + 1)) if given is None else list(given)


def _sum(
    student: LayerRows,
    teacher: LayerRows,
    layers: tuple[Sequence[int], Sequence[int]],
    divergence: Divergence,
    temperature: float,
) -> Tensor:
    """[A, B] sums over the rows of a batch."""
    # Some pairs differ in padding rows of the unembedding, which no token has.
    columns = min(student.head.vocab_size, teacher.head.vocab_size)
    num_layers = sum(map(len, layers))
    total = torch.zeros(len(layers[0]), len(layers[1]), dtype=torch.float64)
    for chunk in chunks(len(student), num_layers, columns, student.final.device):
        ours = _log_probabilities(student, layers[0], chunk, columns, temperature)
        theirs = _log_probabilities(teacher, layers[1], chunk, columns, temperature).to(ours)
        if isinstance(divergence, JensenShannon) and 0 < divergence.beta < 1:
            total += _jensen_shannon(ours, theirs, divergence.beta)
            continue
        # Log-probabilities are logits too.
        found = [divergence(p, q).double().sum() for q in ours for p in theirs]
        total += torch.stack(found).view(total.shape).cpu()
    return total


def _log_probabilities(
    rows: LayerRows, layers: Sequence[int], chunk: slice, columns: int, temperature: float
) -> Tensor:
    logits = rows.logits(layers, chunk, columns)
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def _jensen_shannon(log_student: Tensor, log_teacher: Tensor, beta: float) -> Tensor:
    """[A, B] sums of H(beta p + (1 - beta) q) - beta H(p) - (1 - beta) H(q), p the teacher's.

    Equal to the table's form, with one logarithm for each pair instead of one for each of its
    parts. Rounding leaves about 1e-6 nats, which means over positions do not see.
    """
    ours, theirs = log_student.exp(), log_teacher.exp()
    own = -log_student.mul_(ours).sum(-1).double().sum(-1)
    other = -log_teacher.mul_(theirs).sum(-1).double().sum(-1)
    # One pair at a time stays in a processor's cache; an accelerator takes a row of the matrix.
    together = 1 if ours.device.type == "cpu" else len(theirs)
    tiny = torch.finfo(ours.dtype).tiny
    rows = []
    for student in ours.mul_(1 - beta):
        for teacher in theirs.split(together):
            mixture = torch.add(student, teacher, alpha=beta).clamp_min_(tiny)
            rows.append(-mixture.log().mul_(mixture).sum(-1).double().sum(-1))
    total = torch.cat(rows).view(len(ours), len(theirs))
    return (total - beta * other[None, :] - (1 - beta) * own[:, None]).cpu()
