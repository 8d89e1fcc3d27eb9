"""The paper's loss: intermediate next-token distributions, read through the logit lens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import Group
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.teacher_files import TeacherFile
from distillens_plugin.lens.translators import Translators, read_info
from distillens_plugin.losses.lens_positions import Compared, LensPositions
from distillens_plugin.losses.projection import Projected
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import LayerSpec, Needs
from eval_harness.errors import DistillensError


class DistillLensLoss(Projected):
    """Aligns intermediate next-token distributions, read through the logit lens (arXiv 2602.13567).

    For layer pairs (a, b): the mean over pairs and supervised positions of the divergence between
    softmax(readout_t(h_t[b]) W_t^T / temperature) and softmax(readout_s(h_s[a]) W_s^T /
    temperature). With `readout: teacher`, the student's distribution is
    softmax(readout_t(P h_s[a]) W_t^T / temperature), with trained maps P into the teacher's
    residual stream: both are read by one frozen unembedding, and the student's head is not trained
    by the lens.

    Args:
        layers, pair_weights, chunk_rows: as for `Term`.
        norm: `identity` (the paper's code) or `final` (each model's own final norm first).
        divergence, beta, temperature, scale_by_temperature_squared: as for `distillens.logits_kd`.
        detach_unembedding: the lens does not train the student's unembedding.
        teacher_translators: file of `distillens tune-lens`; the teacher's layers are then read
            through the tuned lens (Belrose et al. 2023, arXiv 2303.08112). Needs norm `final`.
        readout: whose norm and unembedding read the student's states, `own` or `teacher`.
        projection, projection_of, seed: of the maps P, as for `Projected`; with readout `own` there
            are none.
        positions, min_teacher_entropy, weigh_by: as for `LensPositions`.
        divergence_options: further parameters of the divergence.
    """

    default_name = "lens"
    where = "DistillLensLoss"

    def __init__(
        self,
        layers: LayerSpec,
        *,
        norm: str = "identity",
        divergence: str = "jsd",
        beta: float | None = None,
        temperature: float = 1.0,
        scale_by_temperature_squared: bool = False,
        pair_weights: Sequence[float] | None = None,
        detach_unembedding: bool = False,
        teacher_translators: str | None = None,
        readout: str = "own",
        projection: str | None = None,
        projection_of: str | None = None,
        seed: int = 0,
        positions: float = 1.0,
        min_teacher_entropy: float | None = None,
        weigh_by: str | None = None,
        chunk_rows: int | None = None,
        **divergence_options: Any,
    ) -> None:
        super().__init__(
            layers,
            projection=_projection(readout, projection, projection_of, detach_unembedding),
            projection_of=projection_of,
            pair_weights=pair_weights,
            seed=seed,
            chunk_rows=chunk_rows,
        )
        if teacher_translators is not None and norm != "final":
            raise DistillensError(
                f"DistillLensLoss: norm = {norm!r} with teacher_translators, which are trained "
                "through the final norm; set norm: final"
            )
        if norm not in ("identity", "final"):
            raise DistillensError(f"DistillLensLoss: norm = {norm!r}, expected identity or final")
        self.norm = norm
        self.divergence = make_divergence(divergence, beta=beta, **divergence_options)
        self.temperature = temperature
        self.loss_scale = temperature**2 if scale_by_temperature_squared else 1.0
        self.detach_unembedding = detach_unembedding
        self.teacher_translators = teacher_translators
        self.positions = LensPositions(positions, min_teacher_entropy, weigh_by)
        self.readout = "teacher" if readout == "teacher" else "student"
        self._translators: Translators | None = None

    @property
    def needs(self) -> Needs:
        return Needs(unembedding=self.readout == "student" and not self.detach_unembedding)

    @property
    def has_maps(self) -> bool:
        return self.readout == "teacher" and super().has_maps

    def teacher_files(self) -> dict[str, TeacherFile]:
        name = "teacher_translators"
        if self.teacher_translators is None:
            return {}
        return {name: read_info(self.teacher_translators, f"{self.where}.{name}")}

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        if self.readout == "teacher":
            super().prepare(student, teacher)

    def groups(self, reading: Reading) -> list[Group]:
        supervised = reading.supervised
        compared = self.positions.compared(reading)
        return [
            Group(
                name=f"{self.default_name}/{a}-{b}",
                student_rows=self._student_rows(reading, compared, index, a),
                teacher_rows=compared.of(self._teacher_rows(reading, b)),
                divergence=self.divergence,
                row_weights=compared.row_weights(),
                weight=share,
                temperature=self.temperature,
                denominator=compared.denominator(supervised),
                detach_unembedding=self.detach_unembedding,
            )
            for index, (a, b, share) in enumerate(self.weighted_pairs(reading))
        ]

    def _student_rows(
        self, reading: Reading, compared: Compared, index: int, layer: Layer
    ) -> Tensor:
        student, supervised = reading.student, reading.supervised
        if self.readout == "student":
            rows = student.layer_rows(reading.student_io, layer, supervised, norm=self.norm)
            return compared.of(rows)
        with torch.autocast(student.device.type, enabled=False):
            # Only what is compared is mapped.
            rows = compared.of(student.hidden_rows(reading.student_io, layer, supervised)).float()
            return reading.teacher.lens.apply_readout(
                self.project(index, rows), norm=self.norm, frozen=True
            )

    def _teacher_rows(self, reading: Reading, layer: Layer) -> Tensor:
        teacher, supervised = reading.teacher, reading.supervised
        if self.teacher_translators is None:
            rows = teacher.layer_rows(reading.teacher_io, layer, supervised, norm=self.norm)
            return rows.detach()
        if self._translators is None:
            pairs = self.pairs(reading.student.lens.num_layers, teacher.lens.num_layers)
            self._translators = Translators(
                self.teacher_translators,
                [b for _, b in pairs],
                num_layers=teacher.lens.num_layers,
                width=teacher.lens.anatomy.width,
                where="DistillLensLoss.teacher_translators",
            )
        rows = teacher.hidden_rows(reading.teacher_io, layer, supervised).detach()
        with torch.no_grad():
            return teacher.lens.apply_readout(self._translators.apply(layer, rows), norm="final")


def _projection(
    readout: str, projection: str | None, projection_of: str | None, detach_unembedding: bool
) -> str:
    """Which maps the lens has; refuses what only the other readout reads."""
    where = "DistillLensLoss"
    if readout not in ("own", "teacher"):
        raise DistillensError(f"{where}: readout = {readout!r}, expected own or teacher")
    given = {"projection": projection, "projection_of": projection_of}
    if readout == "own":
        for name, value in given.items():
            if value is not None:
                raise DistillensError(
                    f"{where}: {name} = {value!r} with readout = own, which maps nothing; set "
                    "readout: teacher, or leave it out"
                )
        return "none"
    if detach_unembedding:
        raise DistillensError(
            f"{where}: detach_unembedding with readout = teacher, which does not read the "
            "student's unembedding; leave it out"
        )
    if None not in (projection, projection_of):
        raise DistillensError(
            f"{where}: projection = {projection!r} beside projection_of = {projection_of!r}; "
            "leave one of them out"
        )
    return "per_pair" if projection is None else projection
