"""The epochs of a run: steps, the log, and what happens between two steps."""

import signal
from collections.abc import Iterator
from typing import Any

from distillens_plugin.data.loader_position import batches_from, order_states, restore_order
from distillens_plugin.storage.kept_state import Standing
from distillens_plugin.storage.random_states import random_states, restore_random_states
from distillens_plugin.training.averages import Averages
from distillens_plugin.training.between_steps import BetweenSteps, Position
from distillens_plugin.training.early_stopping import judge
from distillens_plugin.training.history import History
from distillens_plugin.training.memory import peak_memory_bytes
from distillens_plugin.training.progress import Progress
from distillens_plugin.training.records import Metrics
from distillens_plugin.training.trainer import StepResult, Trainer
from distillens_plugin.training.window import Window, windows
from eval_harness.errors import RunFailure


class Epochs:
    """Trains for `num_steps` optimiser steps.

    Args:
        metrics: where each record goes.
        log_every: steps between two records.
    """

    def __init__(
        self,
        trainer: Trainer,
        between: BetweenSteps,
        metrics: Metrics,
        *,
        num_steps: int,
        log_every: int,
    ) -> None:
        self.trainer = trainer
        self.between = between
        self.metrics = metrics
        self.num_steps = num_steps
        self.log_every = log_every
        self.history = History()
        self.averages = Averages()
        self.epoch = 0
        self.batches_taken = 0
        self._order: dict[str, Any] | None = None
        self._resumed_order: dict[str, Any] | None = None

    def run(self, resumed: Standing | None = None, order: dict[str, Any] | None = None) -> History:
        """All epochs; the last one ends with the last step.

        Args:
            resumed: where an interrupted run stood; models, optimiser and random numbers have been
                put back.
            order: of its `Position`.
        Raises:
            RunFailure: see `Trainer.step`; or an epoch had no batches.
        """
        progress = Progress(self.num_steps, self.trainer.accelerator)
        if resumed is not None:
            self._put_back(resumed, order, progress)
        try:
            while not self._is_over():
                self._epoch(progress)
        finally:
            progress.close()
        self.history.train_seconds = progress.train_seconds
        self.history.tokens_per_s = progress.tokens_per_s
        self.history.seconds_per_step = progress.seconds_per_step
        return self.history

    def _is_over(self) -> bool:
        return self.trainer.step_number >= self.num_steps or self.history.stopped is not None

    def _put_back(
        self, resumed: Standing, order: dict[str, Any] | None, progress: Progress
    ) -> None:
        self.history = History(**resumed.history)
        self.averages.restore(resumed.averages)
        progress.restore(resumed.progress, resumed.step)
        self.epoch, self.batches_taken = resumed.epoch, resumed.batches_taken
        self.trainer.step_number = resumed.step
        self._resumed_order = order
        self._save(improved=self.history.best_step == resumed.step)

    def _epoch(self, progress: Progress) -> None:
        trainer, box = self.trainer, self.trainer.box
        is_resumed = self.batches_taken > 0
        step_before = trainer.step_number
        is_whole = True
        box.pre_epoch_process(epoch=self.epoch)
        for window in self._windows():
            self._step(window, progress)
            is_whole = self._is_last(window)
            # What is due after the last window comes after the epoch.
            if not (self._is_over() or is_whole):
                self._between_steps(progress, ends_epoch=False)
            if self._is_over():
                break
        if trainer.step_number == step_before and not is_resumed:
            raise RunFailure(
                f"epoch {self.epoch + 1}: the data loader gave no batch, so nothing can be "
                "trained; check its sampler, batch_size and drop_last"
            )
        box.post_epoch_process()
        if is_whole or not self._is_over():
            self.epoch += 1
            self.batches_taken, self._order = 0, None
        if self.history.stopped is None:
            self._between_steps(progress, ends_epoch=True)

    def _is_last(self, window: Window) -> bool:
        """Whether the window that has just been taken is the epoch's last."""
        per_window = self.trainer.box.grad_accum_step
        num_windows = self.batches_taken // per_window
        is_short = len(window.batches) < per_window
        return is_short or num_windows == self.between.schedule.steps_per_epoch

    def _windows(self) -> Iterator[Window]:
        """The windows of the epoch, or those that are left of it after an interruption."""
        loader, accelerator = self.trainer.box.train_data_loader, self.trainer.accelerator
        order, self._resumed_order = self._resumed_order, None
        now = None
        if order is not None:
            restore_order(loader, order["generators"])
            if self.batches_taken > 0:
                # The loader begins as it began the epoch; the steps go on where they stood.
                now = random_states()
                restore_random_states(order["random"])
        self._order = {"random": random_states(), "generators": order_states(loader)}
        batches = batches_from(loader, self.batches_taken)
        for window in windows(batches, self.trainer.box.grad_accum_step, accelerator):
            if now is not None:
                restore_random_states(now)
                now = None
            yield window

    def _step(self, window: Window, progress: Progress) -> None:
        result = self.trainer.step(window)
        self.batches_taken += len(window.batches)
        self.history.num_all_masked += result.num_all_masked
        progress.step(result.loss, result.num_tokens)
        self.averages.add(_loggable(result))
        step = self.trainer.step_number
        if step == self.num_steps or step % self.log_every == 0:
            self._write_record(progress)

    def _between_steps(self, progress: Progress, *, ends_epoch: bool) -> None:
        """Evaluates, keeps and saves what is due, and ends the run if a signal asked for it."""
        tasks, step = self.between, self.trainer.step_number
        progress.pause()
        improved = False
        is_last = step == self.num_steps
        if tasks.evaluate is not None and (
            is_last or tasks.schedule.evaluates(step, ends_epoch=ends_epoch)
        ):
            improved = self._evaluate(tasks.evaluate(), progress)
            if not self._is_over():
                tasks.measure()
        # An early end is an end: the state says so, and `last` is the model that it left.
        saves = self._is_over() or tasks.schedule.saves(step, ends_epoch=ends_epoch)
        if saves and tasks.evaluate is None:
            improved, self.history.best_step = True, step
        if saves and tasks.keep is not None:
            tasks.keep(self._position(progress))
        self._save(improved=improved, last=saves)
        number = tasks.stop_signal()
        if number:
            if not saves and tasks.keep is not None:
                tasks.keep(self._position(progress))
            name = signal.Signals(number).name
            progress.say(f"{name}: the state of step {step} is kept; --resume goes on from there")
            tasks.stop(number)
        progress.resume()

    def _evaluate(self, scores: dict[str, float], progress: Progress) -> bool:
        """Records scores; returns whether they are the best so far."""
        tasks, history, step = self.between, self.history, self.trainer.step_number
        epoch = self._epochs_done()
        self.metrics.write({"step": step, "epoch": epoch, **scores})
        # A layer pair, `val/lens/1-2`, is a number for metrics.jsonl.
        shown = ", ".join(f"{n} {v:.4f}" for n, v in scores.items() if n.count("/") < 2)
        progress.say(f"epoch {epoch}, step {step}: {shown}")
        history.validation.append({"step": step, "epoch": epoch, **scores})
        score, loss = scores[tasks.score_name], scores["validation_loss"]
        if tasks.early_stopping is not None and step < self.num_steps:
            judge(
                history,
                score,
                tasks.early_stopping,
                score_name=tasks.score_name,
                higher_is_better=tasks.higher_is_better,
            )
            if history.stopped is not None:
                progress.say(f"stopped early at step {step}: {history.stopped}")
        improved = history.improves(score, tasks.higher_is_better, loss)
        if improved:
            history.best_score, history.best_step = score, step
        return improved

    def _epochs_done(self) -> float:
        """Whole epochs as a whole number, and within one a fraction."""
        if self.batches_taken == 0:
            return self.epoch
        windows_done = self.batches_taken // self.trainer.box.grad_accum_step
        return round(self.epoch + windows_done / self.between.schedule.steps_per_epoch, 4)

    def _position(self, progress: Progress) -> Position:
        between_epochs = {
            "random": None,
            "generators": order_states(self.trainer.box.train_data_loader),
        }
        return Position(
            self.epoch,
            self.batches_taken,
            self.history,
            self.averages.state(),
            progress.state(),
            self._order or between_epochs,
        )

    def _save(self, *, improved: bool, last: bool = True) -> None:
        if last:
            self.between.save("last")
        if improved:
            self.between.save("best")

    def _write_record(self, progress: Progress) -> None:
        means = self.averages.take()
        learning_rate = self.trainer.box.optimizer.param_groups[0]["lr"]
        record = {
            "step": self.trainer.step_number,
            "epoch": self.epoch,
            "lr": learning_rate,
            "tokens_per_s": round(progress.tokens_per_s, 1),
            "peak_memory_bytes": peak_memory_bytes(self.trainer.accelerator.device),
            **means,
        }
        self.metrics.write(record)
        progress.show_record(loss=means.get("loss"), learning_rate=learning_rate)


def _loggable(result: StepResult) -> dict[str, float]:
    values = {"loss": result.loss, "num_supervised": result.num_supervised, **result.values}
    if result.grad_norm is not None:
        values["grad_norm"] = result.grad_norm
    return values
