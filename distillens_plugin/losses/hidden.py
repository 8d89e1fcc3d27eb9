"""Loss terms on the hidden states themselves: mean squared error and cosine, through a projection.

They read the residual stream of layer pairs at supervised positions, before any norm or head.

Legend: N supervised positions, D width, K layer pairs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distillens_plugin.data.supervision import Supervised
from distillens_plugin.lens.forward import LensOutput
from distillens_plugin.lens.layers import Layer, pair_shares, resolve_pairs
from distillens_plugin.losses.lens import IoDict, lens_output
from distillens_plugin.losses.unembedding_metric import METRICS, unembedding_metric
from eval_harness.errors import DistillensError


class HiddenTerm(nn.Module):
    """A mid-level loss that compares the hidden states of layer pairs.

    Args:
        layers: as for DistillLensLoss.
        pair_weights: one weight >= 0 a pair, normalised to sum to 1; None weighs all alike.

    Attributes:
        last_values: after a forward pass, each pair's value by name (0-d tensors, detached).
    """

    default_name = "hidden"

    def __init__(
        self, layers: dict[str, Any], *, pair_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.layers = layers
        self.pair_weights = pair_weights
        self.last_values: dict[str, Tensor] = {}

    def pairs(self, student_layers: int, teacher_layers: int) -> list[tuple[Layer, Layer]]:
        """The (student layer, teacher layer) pairs for models of these depths."""
        where = f"distillens.{self.default_name}.layers"
        return resolve_pairs(self.layers, student_layers, teacher_layers, where=where)

    def compare(self, index: int, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """A 0-d value: of one layer pair, mean over its rows; float32 in, no gradient to the
        teacher.
        """
        raise NotImplementedError

    def value(
        self, student: LensOutput, student_io: IoDict, teacher_io: IoDict, supervised: Supervised
    ) -> Tensor:
        """The weighted mean over the layer pairs, each a mean over the supervised positions."""
        teacher = lens_output(teacher_io, "teacher")
        pairs = self.pairs(student.lens.num_layers, teacher.lens.num_layers)
        shares = pair_shares(self.pair_weights, len(pairs), f"distillens.{self.default_name}")
        num_rows = supervised.positions.numel()
        # The count is of the whole window and all ranks; alone it is the batch's own.
        share_of_window = 1.0 if supervised.count is None else num_rows / supervised.count
        total = torch.zeros((), device=student.device)
        self.last_values = {}
        # Squares of hidden states overflow float16 and lose digits in bfloat16.
        with torch.autocast(student.device.type, enabled=False):
            for index, (a, b) in enumerate(pairs):
                rows = student.hidden_rows(student_io, a, supervised).float()
                target = teacher.hidden_rows(teacher_io, b, supervised).detach().float()
                if num_rows == 0:
                    pair_value = rows.sum()  # zero, with a graph
                else:
                    pair_value = share_of_window * self.compare(index, rows, target)
                self.last_values[f"{self.default_name}/{a}-{b}"] = pair_value.detach()
                total = total + shares[index] * pair_value
        return total

    def anchor(self, student: LensOutput) -> Tensor | None:
        """Blocks above the last layer and the head get zero gradients, which DDP waits for."""
        head = student.lens.head()
        zero = student.last_hidden[:0].sum() + head.weight[:0].sum()
        return zero if head.bias is None else zero + head.bias[:0].sum()

    def forward(
        self,
        student_io_dict: IoDict,
        teacher_io_dict: IoDict,
        targets: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        student = lens_output(student_io_dict, "student")
        supervised = student.supervised(targets)
        value = self.value(student, student_io_dict, teacher_io_dict, supervised)
        anchor = self.anchor(student)
        return value if anchor is None else value + anchor


class ProjectedTerm(HiddenTerm):
    """A hidden-state term that first maps the student's states to the teacher's width.

    The map is affine and trained with the student: `loss_parameters.adopt` builds it once the
    widths are known, puts it into the optimizer and keeps its gradients equal over the ranks.

    Args:
        projection: `per_pair`, one map for each layer pair (the regressors of FitNets, Romero et
            al. 2015, arXiv 1412.6550, and the filters of TED, Liang et al. 2023, arXiv 2210.01351);
            `shared`, one for all (TinyBERT, Jiao et al. 2020, arXiv 1909.10351); or `none` for
            models of one width.
        seed: of the map's random start; the runner gives the recipe's.
    """

    def __init__(
        self,
        layers: dict[str, Any],
        *,
        projection: str = "per_pair",
        pair_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, pair_weights=pair_weights)
        if projection not in ("per_pair", "shared", "none"):
            raise DistillensError(
                f"distillens.{self.default_name}: projection = {projection!r}, expected per_pair, "
                "shared or none"
            )
        self.projection = projection
        self.seed = seed
        self.projections: nn.ModuleList | None = None

    def build(self, widths: Sequence[tuple[int, int]], device: torch.device) -> None:
        """Makes the maps, the same on every process and device.

        Args:
            widths: (student, teacher) of each layer pair.
        Raises:
            DistillensError: `none` or `shared` with widths that differ.
        """
        name = f"distillens.{self.default_name}"
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

    def project(self, index: int, rows: Tensor) -> Tensor:
        """[N, D_student] -> [N, D_teacher]."""
        if self.projections is None:
            raise DistillensError(
                f"distillens.{self.default_name}: its projection is not in the optimizer; set "
                "pre_epoch_process: distillens.pre_epoch in the recipe's train section"
            )
        if self.projection == "none":
            return rows
        return self.projections[0 if self.projection == "shared" else index](rows)


class HiddenMSE(ProjectedTerm):
    """`distillens.hidden_mse`: mean squared error of projected student and teacher states.

    The mean is over the teacher's width, the supervised positions and the layer pairs.

    Args:
        metric: how directions of the error count (metric.py): `identity`, all alike;
            `unembedding` or `inverse_unembedding`, as much or as little as the teacher's logits
            move with them.
        layers, projection, pair_weights, seed: as for `ProjectedTerm`.
    """

    default_name = "hidden_mse"

    def __init__(
        self,
        layers: dict[str, Any],
        *,
        metric: str = "identity",
        projection: str = "per_pair",
        pair_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, projection=projection, pair_weights=pair_weights, seed=seed)
        if metric not in METRICS:
            raise DistillensError(
                f"distillens.hidden_mse: metric = {metric!r}, expected {', '.join(METRICS)}"
            )
        self.metric = metric
        self._metric_DD: Tensor | None = None

    def value(
        self, student: LensOutput, student_io: IoDict, teacher_io: IoDict, supervised: Supervised
    ) -> Tensor:
        if self.metric != "identity" and self._metric_DD is None:
            # The teacher is frozen, so once is enough.
            head = lens_output(teacher_io, "teacher").lens.head()
            self._metric_DD = unembedding_metric(
                head.weight, inverse=self.metric == "inverse_unembedding"
            ).to(student.device)
        return super().value(student, student_io, teacher_io, supervised)

    def compare(self, index: int, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        error = self.project(index, student_ND) - teacher_ND
        if self._metric_DD is None:
            return error.square().mean()
        width = self._metric_DD.shape[0]
        if error.shape[-1] != width:
            raise DistillensError(
                f"distillens.hidden_mse: metric = {self.metric} with teacher states of width "
                f"{error.shape[-1]}, but its unembedding reads {width}; set metric: identity"
            )
        return ((error @ self._metric_DD) * error).sum(-1).mean()


class HiddenCosine(ProjectedTerm):
    """`distillens.hidden_cosine`: 1 - cosine of projected student and teacher states, in [0, 2].

    The mean is over the supervised positions and the layer pairs. Arguments as `ProjectedTerm`.
    Source: Sanh et al. 2019 (DistilBERT), arXiv 1910.01108, there for models of one width.
    """

    default_name = "hidden_cosine"

    def compare(self, index: int, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        rows = self.project(index, student_ND)
        return 1 - nn.functional.cosine_similarity(rows, teacher_ND, dim=-1).mean()


def _linear(width_in: int, width_out: int, generator: torch.Generator) -> nn.Linear:
    """torch's own random start, drawn from a generator: the global one differs over ranks."""
    layer = nn.Linear(width_in, width_out)
    bound = width_in**-0.5
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
