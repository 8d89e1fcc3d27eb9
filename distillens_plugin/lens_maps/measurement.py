"""Everything that a run asks of its lens, in one forward pass of each model."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from distillens_plugin.lens_maps.batches import Batch
from distillens_plugin.lens_maps.confidence import Confidence, ConfidenceSums
from distillens_plugin.lens_maps.rows import check_batches, read_rows, reading
from distillens_plugin.lens_maps.statistics import LayerStatistics, LayerSums
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class Measurement:
    """Both models, layer by layer; teacher and confidence are None without a teacher."""

    student: LayerStatistics
    teacher: LayerStatistics | None
    confidence: Confidence | None


def measure(
    student: nn.Module,
    teacher: nn.Module | None,
    batches: Sequence[Batch],
    pairs: Sequence[tuple[int, int]],
    *,
    norm: str = "identity",
) -> Measurement:
    """Reads both models on the same positions.

    Args:
        pairs: (student layer, teacher layer), whose confidence is compared.
        norm: as in `layer_statistics`.
    Raises:
        DistillensError: no supervised position, no such pair, or tokens that a model lacks.
    """
    check_batches(batches, student, teacher)
    ours = LayerSums(student, norm=norm)
    theirs = LayerSums(teacher, norm=norm) if teacher is not None else None
    if theirs is not None:
        _check(pairs, len(ours.layers), len(theirs.layers))
    compared = ConfidenceSums(pairs) if teacher is not None else None
    with reading(student, teacher):
        for batch, supervised in batches:
            entropy = ours.add(read_rows(student, batch, supervised, ours.layers, norm=norm))
            if teacher is not None and theirs is not None and compared is not None:
                rows = read_rows(teacher, batch, supervised, theirs.layers, norm=norm)
                compared.add(entropy, theirs.add(rows))
    return Measurement(
        ours.means(),
        theirs.means() if theirs is not None else None,
        compared.means() if compared is not None else None,
    )


def _check(pairs: Sequence[tuple[int, int]], num_student: int, num_teacher: int) -> None:
    for a, b in pairs:
        if not (0 <= a < num_student and 0 <= b < num_teacher):
            raise DistillensError(
                f"pair ({a}, {b}): student and teacher have layers 0 to {num_student - 1} and 0 to "
                f"{num_teacher - 1}"
            )
