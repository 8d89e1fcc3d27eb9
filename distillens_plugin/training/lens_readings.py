"""What the lens reads of a run's student as it trains, and once of its teacher.

A record of lens.jsonl holds, for each layer, means over one fixed sample of supervised positions,
and for each layer pair how often the student is surer, or less sure, than the teacher.
"""

import math
from typing import Any

import numpy as np
from torch import nn

from distillens_plugin.data.supervision import IGNORED
from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.integrations.torchdistill.processes import trained_model
from distillens_plugin.lens.probe import unwrap
from distillens_plugin.lens.translators import Translators, all_translators
from distillens_plugin.lens_maps.batches import lens_batches
from distillens_plugin.lens_maps.confidence import compare_confidence
from distillens_plugin.lens_maps.statistics import LayerStatistics, ModelReading, read_model
from distillens_plugin.losses.term import terms_of
from distillens_plugin.sharding.pieces import put_away

# Two measurements then read no more than 1 % of what training reads.
_TRAINED_ROWS_EACH = 200


class LensReadings:
    """Reads the models of an experiment through its lens.

    Attributes:
        norm: of the recipe's lens term; identity without one.
        teacher: None if there is none that could run.
        pairs: of the recipe's lens terms; without one, each student layer with the teacher's at
            the same relative depth.
    """

    def __init__(self, experiment: Experiment) -> None:
        recipe, accelerator = experiment.recipe, experiment.accelerator
        lens_terms = recipe.lens_terms()
        self.norm = lens_terms[0][1].norm if lens_terms else "identity"
        self.teacher: nn.Module | None = None
        if experiment.readout is None and recipe.is_distillation:
            self.teacher = unwrap(experiment.box.teacher_model)
        self._translators = None if self.teacher is None else _translators(experiment)
        self.pairs = _pairs(experiment) if self.teacher is not None else []
        self._student = unwrap(trained_model(experiment.box))
        self._of_teacher: ModelReading | None = None
        self._accelerator = accelerator
        self._puts_away = recipe.sharding.reshard_teacher
        rows = _rows(experiment)
        self._batches = lens_batches(
            rows, len(rows), accelerator.device, max_positions=recipe.report.positions
        )

    def read(self, *, with_teacher: bool) -> dict[str, Any] | None:
        """The numbers of a record but for step and seconds; None if one of them is not finite.

        Args:
            with_teacher: the record has the teacher's own numbers, too.
        """
        student, teacher = self._read(self._student, None), self._teacher_reading()
        record: dict[str, Any] = {
            "norm": self.norm,
            "num_positions": student.statistics.num_positions,
            "student": _layers(student.statistics),
        }
        if teacher is not None:
            if with_teacher:
                record["teacher"] = _layers(teacher.statistics)
            found = compare_confidence(student, teacher, self.pairs)
            record["confidence"] = {
                "pairs": [list(pair) for pair in found.pairs],
                "surer_share": _short(found.surer_share),
                "surer_by": _short(found.surer_by),
                "less_sure_share": _short(found.less_sure_share),
                "less_sure_by": _short(found.less_sure_by),
            }
        return record if _is_finite(record) else None

    def _read(self, model: nn.Module, translators: Translators | None) -> ModelReading:
        with self._accelerator.autocast():
            return read_model(model, self._batches, norm=self.norm, translators=translators)

    def _teacher_reading(self) -> ModelReading | None:
        """Read once: neither the teacher nor the sample changes."""
        if self.teacher is not None and self._of_teacher is None:
            self._of_teacher = self._read(self.teacher, self._translators)
            if self._puts_away:
                put_away(self.teacher)
        return self._of_teacher


def _translators(experiment: Experiment) -> Translators | None:
    """Those of the first lens term, for the layers that have one; others are read as they are."""
    terms = experiment.recipe.lens_terms()
    path = terms[0][1].teacher_translators if terms else None
    if path is None:
        return None
    teacher = experiment.teacher_anatomy
    assert teacher is not None  # the caller has checked
    return all_translators(
        path, num_layers=teacher.num_layers, width=teacher.width, where="teacher_translators"
    )


def _rows(experiment: Experiment) -> list[dict[str, Any]]:
    """The first rows with supervised positions, as many as are needed; few in a short run."""
    data = experiment.validation or experiment.train
    batch_size = experiment.recipe.train.train_data_loader.kwargs.batch_size or 1
    each_step = batch_size * experiment.box.grad_accum_step * experiment.accelerator.num_processes
    most = max(1, experiment.num_steps * each_step // _TRAINED_ROWS_EACH)
    wanted = experiment.recipe.report.positions
    found: list[dict[str, Any]] = []
    for index in range(len(data)):
        if len(found) >= most or wanted <= 0:
            break
        row = data[index]
        supervised = sum(label != IGNORED for label in row["labels"][1:])
        if supervised:
            found.append(row)
            wanted -= supervised
    return found


def _pairs(experiment: Experiment) -> list[tuple[int, int]]:
    """Pairs of layers with numbers; module paths may lie anywhere, so the lens cannot read them."""
    assert experiment.teacher_anatomy is not None  # there is a teacher
    depths = experiment.student_anatomy.num_layers, experiment.teacher_anatomy.num_layers
    terms = terms_of(experiment.box.criterion)
    named = [terms[name].term for name, _ in experiment.recipe.lens_terms() if name in terms]
    found = {
        (a, b): None
        for term in named
        for a, b in term.pairs(*depths)
        if isinstance(a, int) and isinstance(b, int)
    }
    ours, theirs = depths
    return list(found) or [(k, round(k * theirs / ours)) for k in range(1, ours + 1)]


def _layers(statistics: LayerStatistics) -> dict[str, list[float]]:
    return {
        "layers": list(statistics.layers),
        "entropy": _short(statistics.entropy),
        "kl_from_final": _short(statistics.divergence_to_final),
        "true_rank": _short(statistics.true_rank),
        "top1": _short(statistics.top1),
    }


def _short(values: np.ndarray) -> list[float]:
    """Six digits: the sample holds no more, and a long run has many lines."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def _is_finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_finite(each) for each in value.values())
    if isinstance(value, list):
        return all(_is_finite(each) for each in value)
    return not isinstance(value, float) or math.isfinite(value)
