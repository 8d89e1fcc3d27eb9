"""The paper's loss: intermediate next-token distributions, read through the logit lens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import Group
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.translators import Translators
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import LayerSpec, Needs, Term
from eval_harness.errors import DistillensError


class DistillLensLoss(Term):
    """Aligns intermediate next-token distributions, read through the logit lens (arXiv 2602.13567).

    For layer pairs (a, b): the mean over pairs and supervised positions of the divergence between
    softmax(readout_t(h_t[b]) W_t^T / temperature) and softmax(readout_s(h_s[a]) W_s^T /
    temperature).

    Args:
        layers, pair_weights, chunk_rows: as for `Term`.
        norm: `identity` (the paper's code) or `final` (each model's own final norm first).
        divergence, beta, temperature, scale_by_temperature_squared: as for `distillens.logits_kd`.
        detach_unembedding: the lens does not train the student's unembedding.
        teacher_translators: file of `distillens tune-lens`; the teacher's layers are then read
            through the tuned lens (Belrose et al. 2023, arXiv 2303.08112). Needs norm `final`.
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
        chunk_rows: int | None = None,
        **divergence_options: Any,
    ) -> None:
        super().__init__(layers, pair_weights=pair_weights, chunk_rows=chunk_rows)
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
        self.scale = temperature**2 if scale_by_temperature_squared else 1.0
        self.detach_unembedding = detach_unembedding
        self.teacher_translators = teacher_translators
        self._translators: Translators | None = None

    @property
    def needs(self) -> Needs:
        return Needs(unembedding=not self.detach_unembedding)

    def groups(self, reading: Reading) -> list[Group]:
        student, supervised = reading.student, reading.supervised
        return [
            Group(
                name=f"{self.default_name}/{a}-{b}",
                student_rows=student.layer_rows(reading.student_io, a, supervised, norm=self.norm),
                teacher_rows=self._teacher_rows(reading, b),
                divergence=self.divergence,
                weight=share * self.scale,
                temperature=self.temperature,
                denominator=supervised.count,
                detach_unembedding=self.detach_unembedding,
            )
            for a, b, share in self.weighted_pairs(reading)
        ]

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
