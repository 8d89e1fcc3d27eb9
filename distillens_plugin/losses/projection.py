"""Trained maps from the student's width to the teacher's, for terms on hidden states."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.probe import hidden_states_of, trace_forward, unwrap
from distillens_plugin.losses.hidden_term import HiddenTerm
from distillens_plugin.losses.term import LayerSpec
from eval_harness.errors import DistillensError


class ProjectedTerm(HiddenTerm):
    """A hidden-state term that first maps the student's states to the teacher's width.

    The map is affine and trained with the student: `trained_parameters.adopt` builds it once the
    widths are known and puts it into the optimizer.

    Args:
        projection: `per_pair`, one map for each layer pair (the regressors of FitNets, Romero et
            al. 2015, arXiv 1412.6550, and the filters of TED, Liang et al. 2023, arXiv 2210.01351);
            `shared`, one for all (TinyBERT, Jiao et al. 2020, arXiv 1909.10351); or `none` for
            models of equal width.
        seed: for the map's initial values; the runner passes the recipe's.
    """

    def __init__(
        self,
        layers: LayerSpec,
        *,
        projection: str = "per_pair",
        pair_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, pair_weights=pair_weights)
        if projection not in ("per_pair", "shared", "none"):
            raise DistillensError(
                f"{self.where}: projection = {projection!r}, expected per_pair, shared or none"
            )
        self.projection = projection
        self.seed = seed
        self.projections: nn.ModuleList | None = None

    def build(self, widths: Sequence[tuple[int, int]], device: torch.device) -> None:
        """Makes the maps, the same on every process and device.

        Args:
            widths: (student, teacher) for each layer pair.
        Raises:
            DistillensError: `none` or `shared` with widths that differ.
        """
        name = self.where
        if self.projection == "none":
            for student, teacher in widths:
                if student != teacher:
                    raise DistillensError(
                        f"{name}: projection = none, but the student has width {student} and the "
                        f"teacher {teacher}; set per_pair or shared"
                    )
            widths = []
        elif self.projection == "shared":
            if len(set(widths)) > 1:
                raise DistillensError(
                    f"{name}: projection = shared, but the pairs have the widths "
                    f"{sorted(set(widths))}; set per_pair"
                )
            widths = widths[:1]
        generator = torch.Generator().manual_seed(self.seed)
        self.projections = nn.ModuleList(_linear(*pair, generator) for pair in widths).to(device)

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        if self.projections is not None:
            return
        if teacher is None:
            raise DistillensError(
                f"{self.where}: there is no teacher to compare the student with; add "
                "models.teacher_model to the recipe"
            )
        depths = [lens_of(model).num_layers for model in (student, teacher)]
        pairs = self.pairs(*depths)
        widths = zip(
            _widths(student, [a for a, _ in pairs]),
            _widths(teacher, [b for _, b in pairs]),
            strict=True,
        )
        self.build(list(widths), next(student.parameters()).device)

    def project(self, index: int, rows: Tensor) -> Tensor:
        """[N, D_student] -> [N, D_teacher]."""
        if self.projections is None:
            raise DistillensError(
                f"{self.where}: its projection is not in the optimizer; set "
                "pre_epoch_process: distillens.pre_epoch in the recipe's train section"
            )
        if self.projection == "none":
            return rows
        return self.projections[0 if self.projection == "shared" else index](rows)


def _linear(width_in: int, width_out: int, generator: torch.Generator) -> nn.Linear:
    """torch's default initialisation, from a generator: the global one differs between ranks."""
    layer = nn.Linear(width_in, width_out)
    bound = width_in**-0.5
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _widths(model: nn.Module, layers: list[Layer]) -> list[int]:
    """Width of each layer's hidden states; that of a module path is found by a probe forward."""
    width = lens_of(model).anatomy.width
    if all(isinstance(layer, int) for layer in layers):
        return [width] * len(layers)
    trace = trace_forward(unwrap(model))
    widths = []
    for layer in layers:
        calls = trace.of(layer) if isinstance(layer, str) else []
        hidden = hidden_states_of(calls[0].output) if calls else None
        widths.append(width if hidden is None else hidden.shape[-1])
    return widths
