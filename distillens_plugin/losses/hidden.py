"""Loss terms on the hidden states themselves: mean squared error and cosine, through a projection.

They read the residual stream of layer pairs at supervised positions, before any norm or head.

Legend: N supervised positions, D width, K layer pairs.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from distillens_plugin.losses.projection import ProjectedTerm
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import LayerSpec, Part
from distillens_plugin.losses.unembedding_metric import METRICS, unembedding_metric
from eval_harness.errors import DistillensError


class HiddenMSE(ProjectedTerm):
    """`distillens.hidden_mse`: mean squared error of projected student and teacher states.

    The mean is over the teacher's width, the supervised positions and the layer pairs.

    Args:
        metric: how much each direction of the error counts (`unembedding_metric`): `identity`
            counts all equally; `unembedding` favours directions that move the teacher's logits,
            `inverse_unembedding` those that hardly move them.
        layers, projection, pair_weights, seed: as for `ProjectedTerm`.
    """

    default_name = "hidden_mse"
    where = "distillens.hidden_mse"

    def __init__(
        self,
        layers: LayerSpec,
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

    def parts(self, reading: Reading) -> list[Part]:
        if self.metric != "identity" and self._metric_DD is None:
            # The teacher is frozen, so once is enough.
            self._metric_DD = unembedding_metric(
                reading.teacher.lens.head().weight, inverse=self.metric == "inverse_unembedding"
            ).to(reading.student.device)
        return super().parts(reading)

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
    Source: Sanh et al. 2019 (DistilBERT), arXiv 1910.01108, there for models of equal width.
    """

    default_name = "hidden_cosine"
    where = "distillens.hidden_cosine"

    def compare(self, index: int, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        rows = self.project(index, student_ND)
        return 1 - nn.functional.cosine_similarity(rows, teacher_ND, dim=-1).mean()
