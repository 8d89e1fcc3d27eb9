"""The loop over a torchdistill box: windows, steps, finite losses, validation, best and last."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from distillens_plugin.integrations.torchdistill.processes import (
    apply_gradients,
    backward,
    clip,
    trained_model,
)
from distillens_plugin.losses.hidden import HiddenTerm
from distillens_plugin.losses.lens import LensTerm
from distillens_plugin.losses.trained_parameters import average_gradients
from distillens_plugin.losses.weighted_sum import WeightedSum
from distillens_plugin.storage.kept_state import Standing
from distillens_plugin.training.metrics import Averages, Metrics, Progress
from distillens_plugin.training.window import Window, windows
from eval_harness.errors import RunFailure


@dataclass
class StepResult:
    """What one optimiser step was made of, over all batches of its window and all ranks.

    Attributes:
        loss: total loss, normalised by the window's supervised tokens.
        values: every loss term by name, and `term/a-b` for each layer pair.
        num_tokens: tokens without padding.
    """

    loss: float
    values: dict[str, float]
    num_tokens: float
    num_supervised: float
    num_all_masked: int
    grad_norm: float | None = None


@dataclass
class History:
    """What a run leaves behind for its summary."""

    validation: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    num_all_masked: int = 0
    train_seconds: float = 0.0
    tokens_per_s: float = 0.0

    @property
    def last_loss(self) -> float | None:
        """Validation loss after the last epoch."""
        return self.validation[-1]["validation_loss"] if self.validation else None

    def improves(
        self, score: float | None, higher_is_better: bool, loss: float | None = None
    ) -> bool:
        """Whether a score beats the best so far; without scores the newest is the best.

        Between equal scores the lower validation loss decides.
        """
        if score is None or self.best_score is None:
            return True
        if score == self.best_score and loss is not None:
            return any(
                loss < entry["validation_loss"]
                for entry in self.validation
                if entry["step"] == self.best_step
            )
        return score > self.best_score if higher_is_better else score < self.best_score


@dataclass(frozen=True)
class EpochEnd:
    """What the loop knows after an epoch, for a run that is to go on from there.

    Attributes:
        epoch: number of finished epochs.
    """

    epoch: int
    history: History
    averages: dict[str, Any]
    progress: dict[str, float]


class Trainer:
    """Trains what a DistillationBox or TrainingBox holds.

    Args:
        box: built from the full form of a recipe, with an accelerator.
        accelerator: of the box.
    """

    def __init__(self, box: Any, accelerator: Accelerator) -> None:
        self.box = box
        self.accelerator = accelerator
        self.step_number = 0

    def step(self, window: Window) -> StepResult:
        """One optimiser step over a window.

        Raises:
            RunFailure: a loss or gradient is NaN or infinite; the optimiser has not stepped.
        """
        model = trained_model(self.box)
        losses: list[dict[str, Tensor]] = []
        for index, (batch, targets) in enumerate(window.batches):
            last = index + 1 == len(window.batches)
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.accelerator.autocast():
                    loss = self.box.forward_process(batch, targets)
                # The loss is divided by the count over all ranks; DDP then takes
                # the mean over them.
                backward(self.box, loss * self.accelerator.num_processes)
            losses.append(self._values(loss, batch))
        result = self._sum(losses, window)
        average_gradients(self.box)
        result.grad_norm = self._clip()
        apply_gradients(self.box)
        self.step_number += 1
        return result

    def _values(self, loss: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        values = {"loss": loss.detach(), "num_tokens": batch["attention_mask"].sum()}
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
                # The total is broken whenever a part is: name the parts where there are any.
                parts = [name for name in broken if name != "loss"] or broken
                bad.append(f"{', '.join(parts)} in rows {', '.join(targets['row_ids'])}")
        found = "; ".join(gather_object(bad))
        raise RunFailure(
            f"step {self.step_number + 1}: the loss is not finite: {found}; the optimiser "
            "did not step "
            "and the last checkpoint is intact; lower the learning rate or look at these rows"
        )

    def _clip(self) -> float | None:
        norm = clip(self.box)
        if norm is None:
            return None
        value = float(norm)
        # fp16's scaler expects overflows and skips such steps itself.
        if not _finite(value) and self.accelerator.mixed_precision != "fp16":
            raise RunFailure(
                f"step {self.step_number + 1}: the gradient is not finite although the loss "
                "is; the "
                "optimiser did not step and the last checkpoint is intact; lower the learning rate"
            )
        return value if _finite(value) else None

    def fit(
        self,
        *,
        num_steps: int,
        log_every: int,
        metrics: Metrics,
        validate: Callable[[], dict[str, float]] | None,
        score_name: str,
        higher_is_better: bool,
        save: Callable[[str], None],
        keep: Callable[[EpochEnd], None] | None = None,
        resumed: Standing | None = None,
    ) -> History:
        """Trains for `num_steps` optimiser steps; validates and saves after each epoch and at the
        end.

        Args:
            validate: returns scores by name; None where there is no validation data, and then every
                save is `best` as well.
            score_name: of the score that decides `best`.
            save: called with `last` each time and with `best` where the score improved.
            keep: called at the end of each epoch, before saving: what a kill while saving leaves
                undone is done again from what was kept.
            resumed: where an interrupted run stood; models and optimiser have been put back.
        Raises:
            RunFailure: see `step`; or an epoch had no batches.
        """
        history = History()
        progress = Progress(num_steps, self.accelerator)
        averages = Averages()
        epoch = 0
        if resumed is not None:
            history = History(**resumed.history)
            progress.restore(resumed.progress, resumed.step)
            averages.restore(resumed.averages)
            epoch, self.step_number = resumed.epoch, resumed.step
            _save(history, self.step_number, save)
        try:
            while self.step_number < num_steps:
                step_before = self.step_number
                self.box.pre_epoch_process(epoch=epoch)
                loader = self.box.train_data_loader
                for window in windows(loader, self.box.grad_accum_step, self.accelerator):
                    result = self.step(window)
                    history.num_all_masked += result.num_all_masked
                    progress.step(result.loss, result.num_tokens)
                    averages.add(_loggable(result))
                    if self.step_number % log_every == 0 or self.step_number == num_steps:
                        metrics.write(self._record(epoch, averages.take(), progress))
                    if self.step_number == num_steps:
                        break
                if self.step_number == step_before:
                    raise RunFailure(
                        f"epoch {epoch + 1}: the data loader gave no batch, so that nothing can be "
                        "trained; look at its sampler, batch_size and drop_last"
                    )
                self.box.post_epoch_process()
                epoch += 1
                progress.pause()
                scores = validate() if validate is not None else None
                if scores is not None:
                    metrics.write({"step": self.step_number, "epoch": epoch, **scores})
                    shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
                    progress.say(f"epoch {epoch}, step {self.step_number}: {shown}")
                    history.validation.append({"step": self.step_number, **scores})
                score = scores[score_name] if scores is not None else None
                loss = scores["validation_loss"] if scores is not None else None
                if history.improves(score, higher_is_better, loss):
                    history.best_score, history.best_step = score, self.step_number
                if keep is not None:
                    keep(EpochEnd(epoch, history, averages.state(), progress.state()))
                _save(history, self.step_number, save)
                progress.resume()
        finally:
            progress.close()
        history.train_seconds = progress.train_seconds
        history.tokens_per_s = progress.tokens_per_s
        return history

    def _record(self, epoch: int, means: dict[str, float], progress: Progress) -> dict[str, Any]:
        return {
            "step": self.step_number,
            "epoch": epoch,
            "lr": self.box.optimizer.param_groups[0]["lr"],
            "tokens_per_s": round(progress.tokens_per_s, 1),
            **means,
        }


def _save(history: History, step_number: int, save: Callable[[str], None]) -> None:
    save("last")
    if history.best_step == step_number:
        save("best")


def named_values(criterion: Any) -> dict[str, Tensor]:
    """Every loss term by its name in the recipe, and each layer pair as `term/a-b`; 0-d, detached.

    Under torchdistill's WeightedSumLoss only the terms of this package can be named: the others'
    values are not kept by anybody.
    """
    named: dict[str, Tensor] = {}
    for name, (term, _) in criterion.term_dict.items():
        if isinstance(term, LensTerm | HiddenTerm):
            for group, value in term.last_values.items():
                named[f"{name}/{group.partition('/')[2]}" if "/" in group else name] = value
    if isinstance(criterion, WeightedSum):
        named |= criterion.last_terms
    return named


def _loggable(result: StepResult) -> dict[str, float]:
    values = {"loss": result.loss, "num_supervised": result.num_supervised, **result.values}
    if result.grad_norm is not None:
        values["grad_norm"] = result.grad_norm
    return values


def _finite(value: float) -> bool:
    return value - value == 0.0
