"""What a loss term reads from one batch: both models' states at supervised positions.

Legend: B batch, T tokens, N supervised positions, D width.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Literal, overload

import torch
from torch import Tensor

from distillens_plugin.data.supervision import Supervised, supervised_from_targets
from distillens_plugin.fused.entropies import row_entropies
from distillens_plugin.lens.layers import Layer
from distillens_plugin.lens.output import IoDict, LensOutput, LensRows
from eval_harness.errors import DistillensError


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
        f"train.{role}.forward_proc: distillens losses read the output of distillens.forward, but "
        f"{found}; set forward_proc: distillens.forward"
    )


class Reading:
    """What torchdistill passes to a loss; each part is read only when a term asks for it.

    Args:
        student_io, teacher_io: what the hooks and the forward procedures left, by module path.
        targets: what the collate function made; None where the labels are inside the batch.
    """

    def __init__(self, student_io: IoDict, teacher_io: IoDict, targets: object) -> None:
        self.student_io = student_io
        self.teacher_io = teacher_io
        self.targets = targets

    @cached_property
    def student(self) -> LensOutput:
        """The student's final states and head."""
        return lens_output(self.student_io, "student")

    @cached_property
    def teacher(self) -> LensRows:
        """The teacher's, from its forward pass or from the teacher cache."""
        return lens_output(self.teacher_io, "teacher")

    @cached_property
    def supervised(self) -> Supervised:
        """Positions and labels, on the student's device."""
        return self.student.supervised(self.targets)

    @cached_property
    def share_of_window(self) -> float | Tensor:
        """The weight of a mean over this batch when the runner sums over a window.

        It is the batch's supervised tokens divided by those of the window over all ranks, and 1
        where nothing is summed: means of batches of different size must not count equally. A window
        without any has the share 0, as a group of rows has (`Group.inverse_denominator`).
        """
        targets = self.targets if isinstance(self.targets, Mapping) else {}
        count: float | Tensor | None = targets.get("num_supervised")
        if count is None:
            return 1.0
        positions = targets.get("positions")
        if positions is None:
            positions = supervised_from_targets(targets).positions
        if isinstance(count, Tensor):
            return torch.where(count == 0, 0.0, positions.numel() / count)
        return positions.numel() / count if count else 0.0

    @cached_property
    def teacher_entropy(self) -> Tensor:
        """[N] entropy of the teacher's final next-token distribution, in nats, without a graph.

        One more product with the teacher's unembedding, of as few rows at a time as the walk takes.
        """
        student = self.student
        head = self.teacher.lens.head_on(student.lens.head().weight.device)
        rows = self.teacher.final_rows(self.supervised).detach().to(head.weight.device)
        dtype = student.autocast_dtype
        with torch.autocast(rows.device.type, dtype=dtype, enabled=dtype is not None):
            return row_entropies(rows, head).to(student.device)

    def states(self, student_layer: Layer, teacher_layer: Layer) -> tuple[Tensor, Tensor]:
        """The residual streams after two layers, [N, D_student] and [N, D_teacher].

        float32, since squares of hidden states overflow float16 and lose digits in bfloat16. No
        gradient goes to the teacher.
        """
        student = self.student.hidden_rows(self.student_io, student_layer, self.supervised)
        teacher = self.teacher.hidden_rows(self.teacher_io, teacher_layer, self.supervised)
        return student.float(), teacher.detach().to(student.device, torch.float32)

    def final_states(self) -> tuple[Tensor, Tensor]:
        """What both heads read, [N, D_student] and [N, D_teacher], in the form of `states`."""
        student = self.student.final_rows(self.supervised)
        teacher = self.teacher.final_rows(self.supervised)
        return student.float(), teacher.detach().to(student.device, torch.float32)
