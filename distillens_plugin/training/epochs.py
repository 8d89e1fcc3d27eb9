"""The epochs of a run: steps, the log, and what happens at the end of an epoch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distillens_plugin.storage.kept_state import Standing
from distillens_plugin.training.averages import Averages
from distillens_plugin.training.history import History
from distillens_plugin.training.memory import peak_memory_bytes
from distillens_plugin.training.progress import Progress
from distillens_plugin.training.records import Metrics
from distillens_plugin.training.trainer import StepResult, Trainer
from distillens_plugin.training.window import windows
from eval_harness.errors import RunFailure


@dataclass(frozen=True)
class EpochEnd:
    """What a run must keep after an epoch to resume from there.

    Attributes:
        epoch: number of finished epochs.
    """

    epoch: int
    history: History
    averages: dict[str, Any]
    progress: dict[str, float]


@dataclass(frozen=True)
class AtEpochEnd:
    """What happens at the end of an epoch, in this order.

    Attributes:
        validate: returns scores by name; None without validation data, and then every save is
            `best` as well.
        keep: called before saving, so that an interrupted save is repeated from the kept state;
            None means that the run cannot be resumed.
        save: called with `last`, and with `best` if the score improved.
        score_name: of the score that decides `best`.
    """

    validate: Callable[[], dict[str, float]] | None
    keep: Callable[[EpochEnd], None] | None
    save: Callable[[str], None]
    score_name: str = "validation_loss"
    higher_is_better: bool = False


class Epochs:
    """Trains for `num_steps` optimiser steps.

    Args:
        metrics: where each record goes.
        log_every: steps between two records.
    """

    def __init__(
        self,
        trainer: Trainer,
        at_epoch_end: AtEpochEnd,
        metrics: Metrics,
        *,
        num_steps: int,
        log_every: int,
    ) -> None:
        self.trainer = trainer
        self.at_epoch_end = at_epoch_end
        self.metrics = metrics
        self.num_steps = num_steps
        self.log_every = log_every
        self.history = History()
        self.averages = Averages()
        self.epoch = 0

    def run(self, resumed: Standing | None = None) -> History:
        """All epochs; the last one ends with the last step.

        Args:
            resumed: where an interrupted run stood; models and optimiser have been put back.
        Raises:
            RunFailure: see `Trainer.step`; or an epoch had no batches.
        """
        progress = Progress(self.num_steps, self.trainer.accelerator)
        if resumed is not None:
            self._put_back(resumed, progress)
        try:
            while self.trainer.step_number < self.num_steps:
                self._train(progress)
                self.epoch += 1
                progress.pause()
                self._end(progress)
                progress.resume()
        finally:
            progress.close()
        self.history.train_seconds = progress.train_seconds
        self.history.tokens_per_s = progress.tokens_per_s
        return self.history

    def _put_back(self, resumed: Standing, progress: Progress) -> None:
        self.history = History(**resumed.history)
        self.averages.restore(resumed.averages)
        progress.restore(resumed.progress, resumed.step)
        self.epoch, self.trainer.step_number = resumed.epoch, resumed.step
        self._save()

    def _train(self, progress: Progress) -> None:
        trainer, box = self.trainer, self.trainer.box
        step_before = trainer.step_number
        box.pre_epoch_process(epoch=self.epoch)
        for window in windows(box.train_data_loader, box.grad_accum_step, trainer.accelerator):
            result = trainer.step(window)
            self.history.num_all_masked += result.num_all_masked
            progress.step(result.loss, result.num_tokens)
            self.averages.add(_loggable(result))
            is_last = trainer.step_number == self.num_steps
            if is_last or trainer.step_number % self.log_every == 0:
                self._write_record(progress)
            if is_last:
                break
        if trainer.step_number == step_before:
            raise RunFailure(
                f"epoch {self.epoch + 1}: the data loader gave no batch, so nothing can be "
                "trained; check its sampler, batch_size and drop_last"
            )
        box.post_epoch_process()

    def _end(self, progress: Progress) -> None:
        tasks, history, step = self.at_epoch_end, self.history, self.trainer.step_number
        score = loss = None
        if tasks.validate is not None:
            scores = tasks.validate()
            self.metrics.write({"step": step, "epoch": self.epoch, **scores})
            # A layer pair, `val/lens/1-2`, is a number for metrics.jsonl.
            shown = ", ".join(f"{n} {v:.4f}" for n, v in scores.items() if n.count("/") < 2)
            progress.say(f"epoch {self.epoch}, step {step}: {shown}")
            history.validation.append({"step": step, **scores})
            score, loss = scores[tasks.score_name], scores["validation_loss"]
        if history.improves(score, tasks.higher_is_better, loss):
            history.best_score, history.best_step = score, step
        if tasks.keep is not None:
            tasks.keep(EpochEnd(self.epoch, history, self.averages.state(), progress.state()))
        self._save()

    def _save(self) -> None:
        self.at_epoch_end.save("last")
        if self.history.best_step == self.trainer.step_number:
            self.at_epoch_end.save("best")

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
