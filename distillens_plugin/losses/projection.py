"""Trained maps from the student's width to the teacher's, for terms that need them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.probe import hidden_states_of, trace_forward, unwrap
from distillens_plugin.losses.hidden_term import HiddenTerm
from distillens_plugin.losses.term import LayerSpec, Term, WeightedTerm
from eval_harness.errors import DistillensError


class Projected(Term):
    """A term that first maps the student's states to the teacher's width.

    The map is affine and trained with the student: `trained_parameters.adopt` builds it once the
    widths are known and puts it into the optimizer.

    Args:
        projection: `per_pair`, one map for each layer pair (the regressors of FitNets, Romero et
            al. 2015, arXiv 1412.6550, and the filters of TED, Liang et al. 2023, arXiv 2210.01351);
            `shared`, one for all (TinyBERT, Jiao et al. 2020, arXiv 1909.10351); or `none` for
            models of equal width.
        projection_of: instead, the name of another term of the sum, whose maps this one uses and
            trains too; its layer pairs must be the same.
        seed: for the map's initial values; the runner passes the recipe's.
        layers, pair_weights, more: as for `Term`.
    """

    def __init__(
        self,
        layers: LayerSpec,
        *,
        projection: str = "per_pair",
        projection_of: str | None = None,
        pair_weights: Sequence[float] | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        super().__init__(layers, pair_weights=pair_weights, **more)
        if projection not in ("per_pair", "shared", "none"):
            raise DistillensError(
                f"{self.where}: projection = {projection!r}, expected per_pair, shared or none"
            )
        self.projection = projection
        self.projection_of = projection_of
        self.seed = seed
        self.projections: nn.ModuleList | None = None
        # In a tuple, so that torch does not take the other term's parameters for this one's.
        self._owner: tuple[Projected, ...] = ()

    @property
    def has_maps(self) -> bool:
        return self.projection_of is None

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

    def share_maps(self, owner: Term, name: str) -> None:
        """Uses the maps of another term from now on.

        Args:
            name: of that term, for errors.
        Raises:
            DistillensError: it has no maps of its own.
        """
        if not owner.has_maps:
            raise DistillensError(
                f"{self.where}: projection_of = {name!r}, a term without maps of its own; name a "
                "distillens.hidden_mse or distillens.hidden_cosine of the same sum"
            )
        self._owner = (owner,)  # type: ignore[assignment]

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        if self.projections is not None:
            return
        if self.projection_of is not None:
            self._prepare_owner(student, teacher)
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

    def _prepare_owner(self, student: nn.Module, teacher: nn.Module | None) -> None:
        if not self._owner:
            raise DistillensError(
                f"{self.where}: projection_of = {self.projection_of!r}, but there is no such term "
                "beside it"
            )
        (owner,) = self._owner
        owner.prepare(student, teacher)
        depths = [lens_of(model).num_layers for model in (student, teacher) if model is not None]
        if owner.pairs(*depths) != self.pairs(*depths):
            raise DistillensError(
                f"{self.where}: projection_of = {self.projection_of!r}, but that term has other "
                "layer pairs; give both the same layers"
            )

    def project(self, index: int, rows: Tensor) -> Tensor:
        """[N, D_student] -> [N, D_teacher]."""
        if self._owner:
            return self._owner[0].project(index, rows)
        if self.projections is None:
            raise DistillensError(
                f"{self.where}: its projection is not in the optimizer; set "
                "pre_epoch_process: distillens.pre_epoch in the recipe's train section"
            )
        if self.projection == "none":
            return rows
        return self.projections[0 if self.projection == "shared" else index](rows)


class ProjectedTerm(Projected, HiddenTerm):
    """A hidden-state term on projected student states, with maps of its own.

    Args:
        layers, projection, pair_weights, seed: as for `Projected`.
    """

    def __init__(
        self,
        layers: LayerSpec,
        *,
        projection: str = "per_pair",
        pair_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, projection=projection, pair_weights=pair_weights, seed=seed)


def link_projections(terms: Mapping[str, WeightedTerm]) -> None:
    """Gives each term with `projection_of` the term that it names.

    Args:
        terms: of one sum, by their names.
    Raises:
        DistillensError: there is no such term, or it has no maps of its own.
    """
    for weighted in terms.values():
        name = getattr(weighted.term, "projection_of", None)
        if name is None:
            continue
        if name not in terms:
            raise DistillensError(
                f"{weighted.term.where}: projection_of = {name!r}, but the terms are "
                f"{', '.join(terms)}"
            )
        weighted.term.share_maps(terms[name].term, name)  # type: ignore[operator]


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
