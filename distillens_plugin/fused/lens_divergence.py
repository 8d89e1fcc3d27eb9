"""`lens_divergence`: the fused walk for one group of rows, called like a plain function."""

from typing import Any, Protocol

import torch
from torch import Tensor

from distillens_plugin.divergences import Divergence, make_divergence
from distillens_plugin.divergences.table import divergence_entry, readers
from distillens_plugin.fused.naive import walk_naive
from distillens_plugin.fused.parts import Group, Head, WalkResult
from distillens_plugin.fused.walk import walk

_REDUCTIONS = ("mean", "sum", "none")


class _ForwardOnly(torch.autograd.Function):
    """Row losses, unchanged; a backward through them raises rather than silently doing nothing."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, *leaves: Tensor) -> Tensor:
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        raise RuntimeError(
            "reduction='none' is forward only: the fused lens computes gradients in its forward "
            "pass, where the weight of each row must be known. Pass row_weights with "
            "reduction='sum', or use lens_divergence.naive"
        )


class _Walk(Protocol):
    def __call__(
        self, groups: list[Group], student: Head, teacher: Head | None, *, chunk_rows: int | None
    ) -> WalkResult: ...


class LensDivergence:
    """`lens_divergence` over one of two walks, which take the same arguments.

    Args:
        walk_groups: `walk`, or its plain form.
    """

    def __init__(self, walk_groups: _Walk) -> None:
        self._walk = walk_groups

    @property
    def naive(self) -> "LensDivergence":
        """The same by plain autograd over whole [R, V] logits; "none" has a backward there."""
        return lens_divergence_naive

    def __call__(
        self,
        student_hidden: Tensor,
        student_weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        *,
        divergence: str | Divergence = "jsd",
        beta: float | None = None,
        temperature: float = 1.0,
        student_bias: Tensor | None = None,
        teacher_bias: Tensor | None = None,
        student_softcap: float | None = None,
        teacher_softcap: float | None = None,
        row_weights: Tensor | None = None,
        reduction: str = "mean",
        chunk_rows: int | None = None,
    ) -> Tensor:
        """Divergence between the next-token distributions that two models read from hidden states.

        In nats. Holds logits for never more than a chunk of rows. `lens_divergence.naive` is the
        same by plain autograd.

        Args:
            student_hidden: [R, D_s], the rows of all supervised positions of all layer pairs, after
                the norm.
            student_weight: [V_s, D_s].
            teacher_hidden: [R, D_t]. The teacher gets no gradient.
            teacher_weight: [V_t, D_t]; only the ids that both vocabularies have are compared.
            divergence: jsd, fkl, rkl, jeffreys, skew_fkl, skew_rkl, akl, tvd, alpha_beta, fkl_jsd,
                or an object with parameters of its own (`make_divergence`, or yours: see
                `divergences.protocol`).
            beta: of a divergence given by name that has one; None is its default. Of jsd, weight of
                the teacher in [0, 1] (0.5; 0 is FKL, 1 is RKL). Others have no beta.
            temperature: divides both models' logits, > 0.
            student_bias, teacher_bias: [V] or None.
            student_softcap, teacher_softcap: c in c tanh(logits / c), > 0, or None.
            row_weights: [R] or None for ones.
            reduction: "mean" is sum(w l) / sum(w), and 0 for no rows; "sum" is sum(w l); "none" is
                l itself, [R], forward only.
            chunk_rows: rows at a time; None chooses from the vocabulary and the device.
        Returns:
            0-d (or [R]) float32, float64 for float64 weights.
        Raises:
            ValueError: shapes that do not fit, a parameter out of range, or a beta that nothing
                would read.
            RuntimeError: in the backward of reduction "none", in a second backward after a first
                without retain_graph=True, and in a double backward.
        """
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction = {reduction!r}, expected one of {', '.join(_REDUCTIONS)}")
        if isinstance(divergence, str):
            _check_beta(divergence, beta)
            divergence = make_divergence(divergence, beta=beta)
        elif beta is not None:
            raise ValueError(
                f"beta = {beta} beside the object {divergence.name!r}, which has its parameters "
                "already; leave it out"
            )
        group = Group(
            name=divergence.name,
            student_rows=student_hidden,
            divergence=divergence,
            teacher_rows=teacher_hidden,
            row_weights=row_weights,
            denominator=1.0 if reduction == "sum" else None,
            temperature=temperature,
        )
        student = Head(student_weight, student_bias, student_softcap)
        teacher = Head(teacher_weight, teacher_bias, teacher_softcap)
        fused_rows = reduction == "none" and self._walk is walk
        with torch.set_grad_enabled(torch.is_grad_enabled() and not fused_rows):
            result = self._walk([group], student, teacher, chunk_rows=chunk_rows)
        if reduction != "none":
            return result.loss
        rows = result.row_losses[group.name]
        if not fused_rows:
            return rows
        leaves = (student_hidden, student_weight, student_bias)
        return _ForwardOnly.apply(rows, *(leaf for leaf in leaves if leaf is not None))


def _check_beta(name: str, beta: float | None) -> None:
    if beta is not None and "beta" not in divergence_entry(name).parameters:
        raise ValueError(
            f"beta = {beta} is not a parameter of {name}, only of {', '.join(readers('beta'))}; "
            "leave it out"
        )


lens_divergence = LensDivergence(walk)
lens_divergence_naive = LensDivergence(walk_naive)
