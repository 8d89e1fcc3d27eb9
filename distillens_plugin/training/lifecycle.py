"""The training of a built experiment: from its state, through its steps, to its reports."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.recipe.yaml_dumper import to_yaml
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.fingerprint import Fingerprint
from distillens_plugin.storage.kept_state import Standing, read_order, save_state
from distillens_plugin.storage.main_process import say
from distillens_plugin.training.between_steps import BetweenSteps, Position
from distillens_plugin.training.closing import close_run
from distillens_plugin.training.epochs import Epochs
from distillens_plugin.training.evaluation import Evaluation, on_policy_share
from distillens_plugin.training.readings import Readings
from distillens_plugin.training.record_file import kept_bytes
from distillens_plugin.training.records import Metrics
from distillens_plugin.training.saving import save_student
from distillens_plugin.training.schedule import Schedule
from distillens_plugin.training.stop_signals import StopSignals
from distillens_plugin.training.stream_position import stream_states
from distillens_plugin.training.term_balance import TermBalance
from distillens_plugin.training.trainer import Trainer
from eval_harness.errors import RunFailure


class TrainingRun:
    """The training of a built experiment, with its reports.

    Args:
        fingerprint: what the run learns from, to be kept with its state.
        before_keeping: called by every process before a state is kept, to write what else an
            interruption must not lose.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        fingerprint: Fingerprint,
        before_keeping: Callable[[], None] = lambda: None,
    ) -> None:
        self.experiment = experiment
        self.folder = folder
        self.fingerprint = fingerprint
        self.before_keeping = before_keeping
        self.started_at = time.perf_counter()
        self.balance = TermBalance(experiment)
        self.trainer = Trainer(
            experiment.box,
            experiment.accelerator,
            reshard_teacher=experiment.recipe.sharding.reshard_teacher,
            balance=self.balance,
        )
        self.evaluation = Evaluation(experiment)

    def train(self, standing: Standing | None = None, state: Path | None = None) -> None:
        """Trains to the end, saves and reports.

        Args:
            standing: where an interrupted run stood, and `state`, the folder that has been loaded.
        """
        experiment, accelerator = self.experiment, self.experiment.accelerator
        order = None
        if standing is None or state is None:
            metrics, readings = self._begin()
        else:
            metrics, readings = self._resume(standing, state)
            order = read_order(state, accelerator.process_index)
        signals = StopSignals()
        epochs = Epochs(
            self.trainer,
            self._between_steps(metrics, readings, signals),
            metrics,
            num_steps=experiment.num_steps,
            log_every=experiment.recipe.log_every,
        )
        try:
            # Where no state is kept, a signal ends the run at once.
            with signals if experiment.recipe.resumable else nullcontext():
                history = epochs.run(standing, order)
            if self.trainer.step_number == 0:
                raise RunFailure("no step was taken, so there is no result")
            readings.after(self.trainer.step_number)
            close_run(
                self.folder,
                experiment,
                history,
                readings,
                loss_before=self.evaluation.loss_before,
                weights=self.balance.weights(),
                num_steps=self.trainer.step_number,
                seconds=self._elapsed(),
            )
        finally:
            readings.close()
            metrics.close()

    def _between_steps(
        self, metrics: Metrics, readings: Readings, signals: StopSignals
    ) -> BetweenSteps:
        experiment, evaluation = self.experiment, self.evaluation
        train, resumable = experiment.recipe.train, experiment.recipe.resumable
        return BetweenSteps(
            schedule=Schedule(train.save_every, train.eval_every, experiment.steps_per_epoch),
            evaluate=(
                (lambda: evaluation.at_step(self.trainer.step_number))
                if experiment.validation is not None
                else None
            ),
            early_stopping=train.early_stopping,
            measure=lambda: readings.at_validation(self.trainer.step_number),
            keep=(lambda position: self._keep(position, metrics, readings)) if resumable else None,
            save=self._save,
            stop_signal=(lambda: signals.agreed(experiment.accelerator) if resumable else 0),
            stop=signals.end,
            score_name=evaluation.score_name,
            higher_is_better=evaluation.by_rouge,
        )

    def _begin(self) -> tuple[Metrics, Readings]:
        accelerator = self.experiment.accelerator
        scores = self.evaluation.before_training()
        metrics = Metrics(self.folder / run_folder.METRICS, accelerator)
        if scores is not None:
            say(accelerator, f"validation loss before training: {scores['validation_loss']:.4f}")
            metrics.write({"step": 0, "epoch": 0, **scores})
        readings = Readings(self.experiment, self.folder, self._elapsed)
        readings.before()
        return metrics, readings

    def _resume(self, standing: Standing, state: Path) -> tuple[Metrics, Readings]:
        self.started_at -= standing.seconds
        # Its scores are on the model card, which is written again.
        self.evaluation.restore(standing.loss_before, standing.history["validation"])
        share = on_policy_share(self.experiment)
        if share is not None and standing.share is not None:
            share.restore(standing.share)
        self.balance.restore(standing.balance)
        path, accelerator = self.folder / run_folder.METRICS, self.experiment.accelerator
        keep, spent = kept_bytes(state), standing.report_seconds
        readings = Readings(self.experiment, self.folder, self._elapsed, keep=keep, seconds=spent)
        return Metrics(path, accelerator, keep_bytes=keep[run_folder.METRICS]), readings

    def _elapsed(self) -> float:
        """Seconds of work, without interruptions."""
        return time.perf_counter() - self.started_at

    def _keep(self, position: Position, metrics: Metrics, readings: Readings) -> None:
        metrics.sync()
        readings.sync()
        self.before_keeping()
        accelerator, share = self.experiment.accelerator, on_policy_share(self.experiment)
        standing = Standing(
            step=self.trainer.step_number,
            epoch=position.epoch,
            batches_taken=position.batches_taken,
            history=asdict(position.history),
            averages=position.averages,
            progress=position.progress,
            seconds=self._elapsed(),
            loss_before=self.evaluation.loss_before,
            share=share.state() if share is not None else None,
            balance=self.balance.state(),
            num_processes=accelerator.num_processes,
            recipe=to_yaml(self.experiment.recipe.to_plain()),
            fingerprint=self.fingerprint,
            stream=stream_states(self.experiment),
            report_seconds=readings.seconds(),
        )
        save_state(
            self.folder,
            accelerator,
            self.experiment.box,
            standing,
            order=position.order,
            keep_last=self.experiment.recipe.train.keep_last,
        )

    def _save(self, name: str) -> None:
        step = self.trainer.step_number
        save_student(self.folder, name, self.experiment, self.evaluation, step=step)
