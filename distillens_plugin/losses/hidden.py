"""Loss terms on the hidden states themselves: mean squared error and cosine, through a projection.

They read the residual stream of layer pairs at supervised positions, before any norm or head.

Legend: N supervised positions, D width, K layer pairs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.teacher_files import TeacherFile
from distillens_plugin.losses.fisher_metric import FISHER, fisher_metrics, read_fisher
from distillens_plugin.losses.projection import ProjectedTerm
from distillens_plugin.losses.reading import Reading
from distillens_plugin.losses.term import LayerSpec, Part
from distillens_plugin.losses.unembedding_metric import unembedding_metric
from eval_harness.errors import DistillensError

METRICS = ("identity", "unembedding", "inverse_unembedding", FISHER)


class HiddenMSE(ProjectedTerm):
    """`distillens.hidden_mse`: mean squared error of projected student and teacher states.

    The mean is over the teacher's width, the supervised positions and the layer pairs.

    Args:
        metric: how much each direction of the error counts (`unembedding_metric`): `identity`
            counts all equally; `unembedding` favours directions that move the teacher's logits,
            `inverse_unembedding` those that hardly move them, `fisher` those that the rest of the
            teacher notices.
        metric_file: of metric fisher, a file of `distillens teacher-fisher`.
        layers, projection, pair_weights, seed: as for `ProjectedTerm`.
    """

    default_name = "hidden_mse"
    where = "distillens.hidden_mse"

    def __init__(
        self,
        layers: LayerSpec,
        *,
        metric: str = "identity",
        metric_file: str | None = None,
        projection: str = "per_pair",
        pair_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, projection=projection, pair_weights=pair_weights, seed=seed)
        if metric not in METRICS:
            raise DistillensError(
                f"distillens.hidden_mse: metric = {metric!r}, expected {', '.join(METRICS)}"
            )
        if (metric_file is None) == (metric == FISHER):
            todo = (
                "give a file of `distillens teacher-fisher`" if metric == FISHER else "leave it out"
            )
            raise DistillensError(
                f"distillens.hidden_mse: metric_file = {metric_file!r} with metric = {metric}; "
                f"{todo}"
            )
        self.metric = metric
        self.metric_file = metric_file
        # [D, D] of each pair, on the CPU until a pair's first comparison; empty for identity.
        self._metrics: list[Tensor] = []

    def teacher_files(self) -> dict[str, TeacherFile]:
        if self.metric_file is None:
            return {}
        return {"metric_file": read_fisher(self.metric_file, f"{self.where}.metric_file")}

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        if self.metric_file is not None and teacher is not None and not self._metrics:
            ours, theirs = lens_of(student), lens_of(teacher)
            self._metrics = fisher_metrics(
                self.metric_file,
                [b for _, b in self.pairs(ours.num_layers, theirs.num_layers)],
                num_layers=theirs.num_layers,
                width=theirs.anatomy.width,
                where="distillens.hidden_mse.metric_file",
            )

    def parts(self, reading: Reading) -> list[Part]:
        if self.metric in ("unembedding", "inverse_unembedding") and not self._metrics:
            # The teacher is frozen, so once is enough. A validation may come first, and training
            # cannot use what is made in inference mode.
            with torch.inference_mode(False), torch.no_grad():
                weight = reading.teacher.lens.head().weight
                metric = unembedding_metric(weight, inverse=self.metric == "inverse_unembedding")
            self._metrics = [metric] * len(self.weighted_pairs(reading))
        return super().parts(reading)

    def compare(self, index: int, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        error = self.project(index, student_ND) - teacher_ND
        if self.metric == "identity":
            return error.square().mean()
        if not self._metrics:
            raise DistillensError(
                f"distillens.hidden_mse: metric = {self.metric} without its matrices, which "
                "prepare() reads; set pre_epoch_process: distillens.pre_epoch"
            )
        with torch.inference_mode(False), torch.no_grad():  # as in `parts`
            metric_DD = self._metrics[index] = self._metrics[index].to(error.device)
        width = metric_DD.shape[0]
        if error.shape[-1] != width:
            raise DistillensError(
                f"distillens.hidden_mse: metric = {self.metric} with teacher states of width "
                f"{error.shape[-1]}, but its matrix is for {width}; set metric: identity"
            )
        return ((error @ metric_DD) * error).sum(-1).mean()


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
