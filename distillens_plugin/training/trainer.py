"""One optimiser step over a torchdistill box: a window of batches, checked to be finite."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from distillens_plugin.data.supervision import Targets
from distillens_plugin.integrations.torchdistill.processes import (
    apply_gradients,
    backward,
    clip,
    trained_model,
)
from distillens_plugin.losses.box import Box
from distillens_plugin.losses.trained_parameters import average_gradients
from distillens_plugin.losses.weighted_sum import named_values
from distillens_plugin.sharding.pieces import put_away
from distillens_plugin.training.term_balance import TermBalance
from distillens_plugin.training.window import Window
from eval_harness.errors import NotFinite


@dataclass
class StepResult:
    """The numbers of one optimiser step, over all batches of its window and all ranks.

    Attributes:
        loss: total loss, normalised by the window's supervised tokens.
        values: every loss term by name, `term/a-b` for each layer pair, and `weight/term` for each
            weight that is measured.
        num_tokens: tokens without padding.
        grad_norm: before clipping; None where it overflowed in fp16, which skips the step.
    """

    loss: float
    values: dict[str, float]
    num_tokens: float
    num_supervised: float
    num_all_masked: int
    grad_norm: float | None = None


class Trainer:
    """Trains what a DistillationBox or TrainingBox holds.

    Args:
        box: built from the full form of a recipe, with an accelerator.
        accelerator: of the box.
        reshard_teacher: put the head of a teacher in pieces away after each batch.
        balance: measures weights that are `auto`.
    """

    def __init__(
        self,
        box: Box,
        accelerator: Accelerator,
        *,
        reshard_teacher: bool = False,
        balance: TermBalance | None = None,
    ) -> None:
        self.box = box
        self.accelerator = accelerator
        self.reshard_teacher = reshard_teacher
        self.balance = balance
        self.step_number = 0

    def step(self, window: Window) -> StepResult:
        """One optimiser step over a window.

        Raises:
            NotFinite: a loss or gradient is NaN or infinite; the optimiser has not stepped.
            RunFailure: a weight cannot be measured; nor has it.
        """
        if self.balance is not None:
            self.balance.before_step(window, self.step_number + 1)
        model = trained_model(self.box)
        losses: list[dict[str, Tensor]] = []
        for index, (batch, targets) in enumerate(window.batches):
            last = index + 1 == len(window.batches)
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.accelerator.autocast():
                    loss = self.box.forward_process(batch, targets)
                # The loss is divided by the count over all ranks; DDP then takes
                # the mean over them.
                scaled = loss * self.accelerator.num_processes
                backward(self.box, scaled, ends_window=last)
            if self.reshard_teacher:
                put_away(self.box.teacher_model)
            losses.append(self._values(loss, batch, targets))
        result = self._sum(losses, window)
        if self.balance is not None:
            result.values |= self.balance.named_weights()
        average_gradients(self.box)
        result.grad_norm = self._clip()
        apply_gradients(self.box)
        self.step_number += 1
        return result

    def _values(
        self, loss: Tensor, batch: dict[str, Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        packed = targets.get("num_tokens")
        if packed is not None:
            num_tokens = torch.tensor(packed, device=loss.device)
        else:
            num_tokens = batch["attention_mask"].sum()
        values = {"loss": loss.detach(), "num_tokens": num_tokens}
        return values | named_values(self.box.criterion)

    def _sum(self, losses: list[dict[str, Tensor]], window: Window) -> StepResult:
        """Sums over the window and the ranks, in one reduction and one transfer to the host."""
        names = sorted({name for values in losses for name in values})
        local = torch.stack([torch.stack([v[n].float() for n in names]) for v in losses])
        summed = self.accelerator.reduce(local.sum(0), "sum").tolist()
        values = dict(zip(names, summed, strict=True))
        if not all(value == value and abs(value) != float("inf") for value in summed):
            self._refuse_non_finite(names, local, window)
        return StepResult(
            loss=values.pop("loss"),
            num_tokens=values.pop("num_tokens"),
            values=values,
            num_supervised=window.num_supervised,
            num_all_masked=window.num_all_masked,
        )

    def _refuse_non_finite(self, names: list[str], local: Tensor, window: Window) -> None:
        bad: list[str] = []
        for (_, targets), row in zip(window.batches, local, strict=True):
            broken = [n for n, value in zip(names, row.tolist(), strict=True) if not _finite(value)]
            if broken:
                # The total is broken whenever a part is: name the parts if there are any.
                parts = [name for name in broken if name != "loss"] or broken
                bad.append(f"{', '.join(parts)} in rows {', '.join(targets['row_ids'])}")
        found = "; ".join(gather_object(bad))
        raise NotFinite(
            f"step {self.step_number + 1}: the loss is not finite: {found}; the optimiser did not "
            "step and the last checkpoint is intact; lower the learning rate or check these rows"
        )

    def _clip(self) -> float | None:
        value = float(clip(self.box))
        # fp16's scaler expects overflows and skips such steps itself.
        if not _finite(value) and self.accelerator.mixed_precision != "fp16":
            raise NotFinite(
                f"step {self.step_number + 1}: the gradient is not finite although the loss is; "
                "the optimiser did not step and the last checkpoint is intact; lower the learning "
                "rate"
            )
        return value if _finite(value) else None


def _finite(value: float) -> bool:
    return value - value == 0.0
