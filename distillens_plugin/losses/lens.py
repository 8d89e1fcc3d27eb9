"""The loss terms that torchdistill's YAML names: the lens, the final-logits loss, cross-entropy.

Each term turns what the models computed into groups of rows for the fused walk (`fused.walk`).
Alone, under torchdistill's `WeightedSumLoss`, a term walks by itself; under
`distillens.weighted_sum` the groups of all terms share one walk over the vocabulary (see
weighted_sum.py).

Legend: B batch, T tokens, N supervised tokens, K layer pairs.
"""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from distillens_plugin.data.supervision import Supervised
from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import CROSS_ENTROPY, Group, Head, WalkResult, walk
from distillens_plugin.lens.forward import LensOutput, LensRows
from distillens_plugin.lens.layers import pair_shares, resolve_pairs
from distillens_plugin.lens.translators import Translators
from eval_harness.errors import DistillensError

IoDict = dict[str, Any]


@overload
def lens_output(io_dict: IoDict, role: Literal["student"]) -> LensOutput: ...


@overload
def lens_output(io_dict: IoDict, role: Literal["teacher"]) -> LensRows: ...


def lens_output(io_dict: IoDict, role: str) -> LensRows:
    """What `distillens.forward` left in `io_dict['.']['output']`; a teacher may come from a cache.

    Raises:
        DistillensError: another forward procedure ran, or there is no such model.
    """
    output = io_dict.get(".", {}).get("output")
    if isinstance(output, LensOutput if role == "student" else LensRows):
        return output
    found = "there is none" if output is None else f"it returned {type(output).__name__}"
    raise DistillensError(
        f"train.{role}.forward_proc: distillens losses read the output of distillens.forward, and "
        f"{found}; set forward_proc: distillens.forward"
    )


def walk_terms(
    groups: list[Group], student: LensOutput, teacher: Head | None, *, chunk_rows: int | None
) -> WalkResult:
    """One fused walk in the type that the student's own matrix products ran in.

    torchdistill computes the loss outside autocast, so the type is carried over from the forward.
    """
    dtype = student.autocast_dtype
    with torch.autocast(student.device.type, dtype=dtype, enabled=dtype is not None):
        return walk(groups, student.lens.head(), teacher, chunk_rows=chunk_rows)


class LensTerm(nn.Module):
    """A mid-level loss made of groups of rows.

    Attributes:
        last_values: after a forward pass, each group's value by name (0-d tensors, detached).
    """

    default_name = "term"
    needs_teacher = True

    def __init__(self, *, chunk_rows: int | None = None) -> None:
        super().__init__()
        self.chunk_rows = chunk_rows
        self.last_values: dict[str, Tensor] = {}

    def groups(
        self, student: LensOutput, student_io: IoDict, teacher_io: IoDict, supervised: Supervised
    ) -> list[Group]:
        """The rows this term compares, with weights that sum to one term's value."""
        raise NotImplementedError

    def anchor(self, student: LensOutput) -> Tensor | None:
        """Zero, with a graph to parameters that the groups alone would leave without a gradient."""
        return None

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
        groups = self.groups(student, student_io_dict, teacher_io_dict, supervised)
        teacher = (
            lens_output(teacher_io_dict, "teacher").lens.head() if self.needs_teacher else None
        )
        result = walk_terms(groups, student, teacher, chunk_rows=self.chunk_rows)
        self.last_values = result.values
        anchor = self.anchor(student)
        return result.loss if anchor is None else result.loss + anchor


class CrossEntropy(LensTerm):
    """`distillens.cross_entropy`: negative log-likelihood of the supervised tokens, in nats a
    token.
    """

    default_name = "cross_entropy"
    needs_teacher = False

    def groups(
        self, student: LensOutput, student_io: IoDict, teacher_io: IoDict, supervised: Supervised
    ) -> list[Group]:
        return [
            Group(
                name=self.default_name,
                student_rows=student.final_rows(supervised),
                labels=supervised.labels,
                divergence=CROSS_ENTROPY,
                denominator=supervised.count,
            )
        ]


class LogitsKD(LensTerm):
    """`distillens.logits_kd`: a divergence of the final next-token distributions, in nats a token.

    Args:
        divergence: fkl, rkl, jeffreys (FKL + RKL), jsd, akl, skew_fkl, skew_rkl, tvd or alpha_beta.
        beta: weight of the teacher in jsd, in [0, 1] (0.5; exactly 0 is FKL and exactly 1 RKL); the
            exponent of the student in alpha_beta (0.7).
        temperature: divides both models' logits; > 0.
        scale_by_temperature_squared: multiply by temperature ** 2 (Hinton et al. 2015); the paper
            does not.
        chunk_rows: rows of the vocabulary walk at a time; None chooses.
        divergence_options: further parameters of the divergence (alpha of skew_*, ...).
    """

    default_name = "logits_kd"

    def __init__(
        self,
        divergence: str = "fkl",
        *,
        beta: float | None = None,
        temperature: float = 1.0,
        scale_by_temperature_squared: bool = False,
        chunk_rows: int | None = None,
        **divergence_options: Any,
    ) -> None:
        super().__init__(chunk_rows=chunk_rows)
        self.divergence = make_divergence(divergence, beta=beta, **divergence_options)
        self.temperature = temperature
        self.scale = temperature**2 if scale_by_temperature_squared else 1.0

    def groups(
        self, student: LensOutput, student_io: IoDict, teacher_io: IoDict, supervised: Supervised
    ) -> list[Group]:
        teacher = lens_output(teacher_io, "teacher")
        return [
            Group(
                name=self.default_name,
                student_rows=student.final_rows(supervised),
                teacher_rows=teacher.final_rows(supervised).detach(),
                divergence=self.divergence,
                weight=self.scale,
                temperature=self.temperature,
                denominator=supervised.count,
            )
        ]


class DistillLensLoss(LensTerm):
    """Aligns intermediate next-token distributions, read through the logit lens (arXiv 2602.13567).

    For layer pairs (a, b): the mean over pairs and supervised positions of the divergence between
    softmax(readout_t(h_t[b]) W_t^T / temperature) and softmax(readout_s(h_s[a]) W_s^T /
    temperature).

    Args:
        layers: `{student: [...], teacher: [...]}` with layer numbers (k is the residual stream
        after
            k blocks, 0 the embeddings) or module paths, or `{auto: K}` for K pairs by relative
            depth.
        norm: `identity` (the paper's code) or `final` (each model's own final norm first).
        divergence, beta, temperature, scale_by_temperature_squared: as for `distillens.logits_kd`.
        pair_weights: one weight >= 0 a pair, normalised to sum to 1; None weighs all alike.
        detach_unembedding: the lens does not train the student's unembedding.
        teacher_translators: file of `distillens tune-lens`; the teacher's layers are then read
            through the tuned lens (Belrose et al. 2023, arXiv 2303.08112). Needs norm `final`.
        chunk_rows: rows of the vocabulary walk at a time; None chooses.
        divergence_options: further parameters of the divergence.
    """

    default_name = "lens"

    def __init__(
        self,
        layers: dict[str, Any],
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
        super().__init__(chunk_rows=chunk_rows)
        if teacher_translators is not None and norm != "final":
            raise DistillensError(
                f"DistillLensLoss: norm = {norm!r} with teacher_translators, which are trained "
                "through the final norm; set norm: final"
            )
        if norm not in ("identity", "final"):
            raise DistillensError(f"DistillLensLoss: norm = {norm!r}, expected identity or final")
        self.layers = layers
        self.norm = norm
        self.divergence = make_divergence(divergence, beta=beta, **divergence_options)
        self.temperature = temperature
        self.scale = temperature**2 if scale_by_temperature_squared else 1.0
        self.pair_weights = pair_weights
        self.detach_unembedding = detach_unembedding
        self.teacher_translators = teacher_translators
        self._translators: Translators | None = None

    def pairs(self, student_layers: int, teacher_layers: int) -> list[tuple[int | str, int | str]]:
        """The (student layer, teacher layer) pairs for models of these depths."""
        return resolve_pairs(
            self.layers, student_layers, teacher_layers, where="DistillLensLoss.layers"
        )

    def groups(
        self, student: LensOutput, student_io: IoDict, teacher_io: IoDict, supervised: Supervised
    ) -> list[Group]:
        teacher = lens_output(teacher_io, "teacher")
        pairs = self.pairs(student.lens.num_layers, teacher.lens.num_layers)
        weights = pair_shares(self.pair_weights, len(pairs), "DistillLensLoss")
        return [
            Group(
                name=f"{self.default_name}/{a}-{b}",
                student_rows=student.layer_rows(student_io, a, supervised, norm=self.norm),
                teacher_rows=self._teacher_rows(teacher, teacher_io, b, supervised, pairs),
                divergence=self.divergence,
                weight=weight * self.scale,
                temperature=self.temperature,
                denominator=supervised.count,
                detach_unembedding=self.detach_unembedding,
            )
            for (a, b), weight in zip(pairs, weights, strict=True)
        ]

    def _teacher_rows(
        self,
        teacher: LensRows,
        teacher_io: IoDict,
        layer: int | str,
        supervised: Supervised,
        pairs: Sequence[tuple[int | str, int | str]],
    ) -> Tensor:
        if self.teacher_translators is None:
            return teacher.layer_rows(teacher_io, layer, supervised, norm=self.norm).detach()
        if self._translators is None:
            self._translators = Translators(
                self.teacher_translators,
                [b for _, b in pairs],
                num_layers=teacher.lens.num_layers,
                width=teacher.lens.anatomy.width,
                where="DistillLensLoss.teacher_translators",
            )
        rows = teacher.hidden_rows(teacher_io, layer, supervised).detach()
        with torch.no_grad():
            return teacher.lens.apply_readout(self._translators.apply(layer, rows), norm="final")

    def anchor(self, student: LensOutput) -> Tensor | None:
        """A lens alone leaves the blocks above its last layer, and DDP, without a gradient.

        An empty slice costs nothing and gives those parameters zeros.
        """
        zero = student.last_hidden[:0].sum()
        if self.detach_unembedding:
            head = student.lens.head()
            zero = zero + head.weight[:0].sum()
            if head.bias is not None:
                zero = zero + head.bias[:0].sum()
        return zero
