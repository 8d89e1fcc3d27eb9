"""The parts of a walk: heads, groups of rows, and the result.

Legend: R rows of a group, D width, V vocabulary.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from distillens_plugin.divergences import Divergence


@dataclass(frozen=True)
class CrossEntropy:
    """Negative log-likelihood of `labels` under the student, in nats; takes no teacher."""

    name: str = "cross_entropy"


CROSS_ENTROPY = CrossEntropy()


@dataclass(frozen=True, eq=False)
class Head:
    """From hidden states to logits: softcap(scale * (h W^T + b)).

    Args:
        weight: [V, D].
        bias: [V] or None.
        softcap: c in c tanh(x / c), > 0, or None (Gemma).
        scale: a factor on the logits (Granite, Cohere).
    Raises:
        ValueError: shapes that do not fit, or a soft-cap that is not above 0.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.weight.dim() != 2:
            raise ValueError(f"head weight has shape {tuple(self.weight.shape)}, expected [V, D]")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"head bias has shape {tuple(self.bias.shape)}, expected ({self.weight.shape[0]},) "
                f"as the weight is {tuple(self.weight.shape)}"
            )
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"softcap = {self.softcap}, expected a number above 0, or None")

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.weight.shape[0]

    def detached(self) -> "Head":
        """The same head, which gets no gradient."""
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, weight=self.weight.detach(), bias=bias)


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that one loss term compares.

    Its value is sum(row_weights * loss of each row) / denominator. Groups that hold the same
    `student_rows` object share the student's matrix product (and the teacher's, for the same
    `teacher_rows` object).

    Args:
        name: the key of its value in the result; unique in a walk.
        student_rows: [R, D_s], what the student's head reads.
        divergence: an object of `distillens_plugin.divergences`, one of your own (see
            `divergences.protocol`), or CROSS_ENTROPY.
        teacher_rows: [R, D_t]; None for cross-entropy. Gets no gradient.
        labels: [R] int64 in [0, V_s), for cross-entropy.
        row_weights: [R] float, or None for ones. Gets no gradient.
        weight: factor of the value in the loss.
        denominator: what the weighted sum is divided by, a number or a 0-d tensor; None is the sum
            of the row weights. 0 gives the value 0, so that an empty batch is no special case.
        temperature: both models' logits are divided by it; > 0. No factor of its square.
        detach_unembedding: the student's head gets no gradient from this group.
    Raises:
        ValueError: shapes that do not fit, a missing teacher or labels, a temperature not above 0.
    """

    name: str
    student_rows: Tensor
    divergence: Divergence | CrossEntropy
    teacher_rows: Tensor | None = None
    labels: Tensor | None = None
    row_weights: Tensor | None = None
    weight: float = 1.0
    denominator: float | Tensor | None = None
    temperature: float = 1.0
    detach_unembedding: bool = False

    def __post_init__(self) -> None:
        where = f"group {self.name!r}"
        if self.student_rows.dim() != 2:
            raise ValueError(
                f"{where}: student rows have shape {tuple(self.student_rows.shape)}, "
                "expected [R, D_s]"
            )
        if not self.temperature > 0:
            raise ValueError(
                f"{where}: temperature = {self.temperature}, expected a number above 0"
            )
        if self.is_cross_entropy:
            if self.labels is None:
                raise ValueError(f"{where}: cross-entropy needs labels [R]")
        elif not callable(self.divergence):
            raise ValueError(
                f"{where}: divergence = {self.divergence!r}, expected an object such as "
                "make_divergence('jsd') gives, or CROSS_ENTROPY"
            )
        elif self.teacher_rows is None:
            raise ValueError(f"{where}: {self.divergence.name} needs teacher rows [R, D_t]")
        num_rows = self.student_rows.shape[0]
        for what, tensor, dims in (
            ("teacher rows", self.teacher_rows, 2),
            ("labels", self.labels, 1),
            ("row weights", self.row_weights, 1),
        ):
            if tensor is not None and (tensor.dim() != dims or tensor.shape[0] != num_rows):
                raise ValueError(
                    f"{where}: {what} have shape {tuple(tensor.shape)}, expected {dims} dimensions "
                    f"and {num_rows} rows as the student rows have"
                )

    @property
    def is_cross_entropy(self) -> bool:
        """Whether the group reads labels rather than a teacher."""
        return isinstance(self.divergence, CrossEntropy)

    def to(self, device: torch.device) -> "Group":
        """The same group with its tensors on another device; itself if they are there already."""
        names = ("student_rows", "teacher_rows", "labels", "row_weights")
        tensors = {name: getattr(self, name) for name in names}
        moved = {
            n: t.to(device) for n, t in tensors.items() if t is not None and t.device != device
        }
        return replace(self, **moved) if moved else self

    def weights(self, dtype: torch.dtype) -> Tensor:
        """[R] row weights in `dtype`, ones where none were given."""
        if self.row_weights is None:
            return self.student_rows.new_ones(self.student_rows.shape[0], dtype=dtype)
        return self.row_weights.detach().to(self.student_rows.device, dtype)

    def inverse_denominator(self, row_weights: Tensor) -> Tensor:
        """0-d 1 / denominator, and 0 for a denominator of 0."""
        denominator = row_weights.sum() if self.denominator is None else self.denominator
        if isinstance(denominator, Tensor):
            denominator = denominator.to(row_weights.device, row_weights.dtype)
        else:
            # Filled there: a copy from the host would wait for all that the GPU still has to do.
            denominator = row_weights.new_full((), denominator)
        empty = denominator == 0
        return torch.where(empty, 0.0, 1.0 / torch.where(empty, 1.0, denominator)).detach()


@dataclass(frozen=True, eq=False)
class WalkResult:
    """What a walk returns.

    Attributes:
        loss: 0-d, the sum of weight * value over the groups, with a graph to the student.
        values: each group's own value by name, 0-d, detached, not multiplied by its weight.
        entropies: by name, the mean entropy over the group's rows (weighted as the loss) of the
            student's and the teacher's distribution, in nats, 0-d, detached; the teacher's is None
            for cross-entropy. Empty unless asked for.
        row_losses: by name, [R] the loss of each row, without a graph (`walk_naive` leaves it in
            place).
    """

    loss: Tensor
    values: dict[str, Tensor]
    entropies: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    row_losses: dict[str, Tensor] = field(default_factory=dict)


def check_groups(groups: list[Group], student: Head, teacher: Head | None) -> None:
    """Raise ValueError for groups that do not fit the heads or each other."""
    if not groups:
        raise ValueError("a walk needs at least one group")
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ValueError(f"group names {names} repeat; give each group its own name")
    for group in groups:
        _check_width(group.name, "student", group.student_rows, student)
        if group.is_cross_entropy:
            continue
        if teacher is None:
            raise ValueError(
                f"group {group.name!r} compares with a teacher, but no teacher head is given"
            )
        assert (
            group.teacher_rows is not None
        )  # __post_init__ has checked it; this is for the type checker
        _check_width(group.name, "teacher", group.teacher_rows, teacher)


def _check_width(name: str, role: str, rows: Tensor, head: Head) -> None:
    if rows.shape[1] != head.weight.shape[1]:
        raise ValueError(
            f"group {name!r}: {role} rows {tuple(rows.shape)} do not fit the {role}'s unembedding "
            f"{tuple(head.weight.shape)}; the last dimensions must agree"
        )
