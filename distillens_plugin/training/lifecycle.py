"""The training of a built experiment: from its state, through its steps, to its reports."""

import time
from dataclasses import asdict
from pathlib import Path

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.recipe.full_form import to_yaml
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.fingerprint import Fingerprint
from distillens_plugin.storage.kept_state import Standing, save_state
from distillens_plugin.storage.main_process import say
from distillens_plugin.training.closing import close_run
from distillens_plugin.training.epochs import AtEpochEnd, EpochEnd, Epochs
from distillens_plugin.training.evaluation import Evaluation, on_policy_share
from distillens_plugin.training.records import Metrics
from distillens_plugin.training.resume import metrics_bytes
from distillens_plugin.training.saving import save_student
from distillens_plugin.training.stream_position import stream_states
from distillens_plugin.training.trainer import Trainer
from eval_harness.errors import RunFailure


class TrainingRun:
    """The training of a built experiment, with its reports.

    Args:
        fingerprint: what the run learns from, to be kept with its state.
    """

    def __init__(self, experiment: Experiment, folder: Path, fingerprint: Fingerprint) -> None:
        self.experiment = experiment
        self.folder = folder
        self.fingerprint = fingerprint
        self.started_at = time.perf_counter()
        self.trainer = Trainer(experiment.box, experiment.accelerator)
        self.evaluation = Evaluation(experiment)

    def train(self, standing: Standing | None = None, state: Path | None = None) -> None:
        """Trains to the end, saves and reports.

        Args:
            standing: where an interrupted run stood, and `state`, the folder that has been loaded.
        """
        experiment, evaluation = self.experiment, self.evaluation
        if standing is None or state is None:
            metrics = self._begin()
        else:
            metrics = self._resume(standing, state)

        def keep(end: EpochEnd) -> None:
            self._keep(end, metrics)

        def validate() -> dict[str, float]:
            return evaluation.at_step(self.trainer.step_number)

        at_epoch_end = AtEpochEnd(
            validate=validate if experiment.validation is not None else None,
            keep=keep if experiment.recipe.resumable else None,
            save=self._save,
            score_name="rougeL" if evaluation.by_rouge else "validation_loss",
            higher_is_better=evaluation.by_rouge,
        )
        epochs = Epochs(
            self.trainer,
            at_epoch_end,
            metrics,
            num_steps=experiment.num_steps,
            log_every=experiment.recipe.log_every,
        )
        try:
            history = epochs.run(standing)
            if self.trainer.step_number == 0:
                raise RunFailure("no step was taken, so there is no result")
            close_run(
                self.folder,
                experiment,
                history,
                loss_before=evaluation.loss_before,
                num_steps=self.trainer.step_number,
                seconds=time.perf_counter() - self.started_at,
            )
        finally:
            metrics.close()

    def _begin(self) -> Metrics:
        accelerator = self.experiment.accelerator
        scores = self.evaluation.before_training()
        metrics = Metrics(self.folder / run_folder.METRICS, accelerator)
        if scores is not None:
            say(accelerator, f"validation loss before training: {scores['validation_loss']:.4f}")
            metrics.write({"step": 0, "epoch": 0, **scores})
        return metrics

    def _resume(self, standing: Standing, state: Path) -> Metrics:
        self.started_at -= standing.seconds
        # Its scores are on the model card, which is written again.
        self.evaluation.restore(standing.loss_before, standing.history["validation"])
        share = on_policy_share(self.experiment)
        if share is not None and standing.share is not None:
            share.restore(standing.share)
        path, accelerator = self.folder / run_folder.METRICS, self.experiment.accelerator
        return Metrics(path, accelerator, keep_bytes=metrics_bytes(state))

    def _keep(self, end: EpochEnd, metrics: Metrics) -> None:
        metrics.sync()
        accelerator, share = self.experiment.accelerator, on_policy_share(self.experiment)
        standing = Standing(
            step=self.trainer.step_number,
            epoch=end.epoch,
            history=asdict(end.history),
            averages=end.averages,
            progress=end.progress,
            seconds=time.perf_counter() - self.started_at,
            loss_before=self.evaluation.loss_before,
            share=share.state() if share is not None else None,
            num_processes=accelerator.num_processes,
            recipe=to_yaml(self.experiment.recipe.to_plain()),
            fingerprint=self.fingerprint,
            stream=stream_states(self.experiment),
        )
        save_state(self.folder, accelerator, self.experiment.box, standing)

    def _save(self, name: str) -> None:
        step = self.trainer.step_number
        save_student(self.folder, name, self.experiment, self.evaluation, step=step)
