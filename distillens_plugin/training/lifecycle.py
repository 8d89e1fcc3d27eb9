"""The training of a built experiment: validation, checkpoints, reports."""

import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.integrations.torchdistill.processes import trained_model
from distillens_plugin.lens.discovery import unwrap
from distillens_plugin.losses.trained_parameters import loss_state
from distillens_plugin.on_policy.loader import OnPolicyLoader, Share
from distillens_plugin.recipe.full_form import to_yaml
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.fingerprint import Fingerprint
from distillens_plugin.storage.kept_state import Standing, save_state
from distillens_plugin.storage.main_process import on_main_process, say
from distillens_plugin.storage.model_card import model_card, student_name, versions
from distillens_plugin.storage.model_folder import save_model
from distillens_plugin.training.epochs import AtEpochEnd, EpochEnd, Epochs
from distillens_plugin.training.history import History
from distillens_plugin.training.memory import peak_memory_bytes
from distillens_plugin.training.records import Metrics
from distillens_plugin.training.resume import metrics_bytes
from distillens_plugin.training.stream_position import stream_states
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.validation import (
    SampleAnswer,
    sample_answers,
    validation_rouge,
    validation_scores,
)
from distillens_plugin.training.validation_terms import teacher_terms
from eval_harness.errors import RunFailure
from eval_harness.shared.model_folder.trained_with import training_note


def on_policy_share(experiment: Experiment) -> Share | None:
    """The share of rows that the student answers itself; None without `train.on_policy`."""
    loader = experiment.box.train_data_loader
    return loader.share if isinstance(loader, OnPolicyLoader) else None


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
        self.terms = teacher_terms(experiment)
        self.by_rouge = experiment.recipe.train.best_by == "rougeL"
        self.scores: dict[str, float] = {}
        self.loss_before: float | None = None

    @property
    def model(self) -> Any:
        return trained_model(self.experiment.box)

    def train(self, standing: Standing | None = None, state: Path | None = None) -> None:
        """Trains to the end, saves and reports.

        Args:
            standing: where an interrupted run stood, and `state`, the folder that has been loaded.
        """
        experiment = self.experiment
        if standing is None or state is None:
            metrics = self._begin()
        else:
            metrics = self._resume(standing, state)

        def keep(end: EpochEnd) -> None:
            self._keep(end, metrics)

        at_epoch_end = AtEpochEnd(
            validate=self._validate if experiment.validation is not None else None,
            keep=keep if experiment.recipe.resumable else None,
            save=self._save,
            score_name="rougeL" if self.by_rouge else "validation_loss",
            higher_is_better=self.by_rouge,
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
            self._close(history, history.last_loss)
        finally:
            metrics.close()

    def _begin(self) -> Metrics:
        accelerator = self.experiment.accelerator
        scores = self._validation_scores()
        metrics = Metrics(self.folder / run_folder.METRICS, accelerator)
        if scores is None:
            return metrics
        self.loss_before = scores["validation_loss"]
        share = on_policy_share(self.experiment)
        if share is not None:
            share.after_validation(self.loss_before)
        say(accelerator, f"validation loss before training: {self.loss_before:.4f}")
        metrics.write({"step": 0, "epoch": 0, **scores})
        return metrics

    def _resume(self, standing: Standing, state: Path) -> Metrics:
        self.started_at -= standing.seconds
        self.loss_before = standing.loss_before
        validation = standing.history["validation"]
        if validation:
            # For the model card, which is written again.
            self.scores = {name: v for name, v in validation[-1].items() if name != "step"}
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
            loss_before=self.loss_before,
            share=share.state() if share is not None else None,
            num_processes=accelerator.num_processes,
            recipe=to_yaml(self.experiment.recipe.to_plain()),
            fingerprint=self.fingerprint,
            stream=stream_states(self.experiment),
        )
        save_state(self.folder, accelerator, self.experiment.box, standing)

    def _validation_scores(self) -> dict[str, float] | None:
        experiment = self.experiment
        if experiment.validation is None:
            return None
        train = experiment.recipe.train
        batch_size = train.val_data_loader.kwargs.batch_size
        try:
            return validation_scores(
                self.model,
                experiment.validation,
                batch_size=batch_size or train.train_data_loader.kwargs.batch_size or 1,
                accelerator=experiment.accelerator,
                terms=self.terms,
            )
        except RunFailure as error:
            step = self.trainer.step_number
            if step == 0:
                todo = "it comes from the student's own weights: check them, or these rows"
            else:
                todo = (
                    "the student is not saved, and what was saved before is intact; lower the "
                    "learning rate, set max_grad_norm, or check these rows"
                )
            when = f"step {step}" if step else "before training"
            raise RunFailure(f"{when}: {error}; {todo}") from error

    def _validate(self) -> dict[str, float]:
        scores = self._validation_scores()
        assert scores is not None
        assert self.experiment.validation is not None
        self.scores = scores
        share = on_policy_share(self.experiment)
        if share is not None:
            share.after_validation(scores["validation_loss"])
            self.scores["on_policy_share"] = share.value
        if self.by_rouge:
            self.scores["rougeL"] = validation_rouge(
                self.model,
                self.experiment.validation,
                self.experiment.tokenizer,
                seed=self.experiment.recipe.seed,
                max_new_tokens=self.experiment.recipe.samples.max_new_tokens,
                accelerator=self.experiment.accelerator,
            )
        return self.scores

    def _save(self, name: str) -> None:
        experiment, recipe = self.experiment, self.experiment.recipe
        if name == "last" and experiment.stream is not None:
            say(experiment.accelerator, experiment.stream.describe())
        spec = recipe.models.trained
        teacher = recipe.models.teacher_model
        results: dict[str, Any] = {
            "optimiser steps": self.trainer.step_number,
            **self.scores,
        }
        if self.loss_before is not None:
            results["validation_loss before training"] = self.loss_before
        card = model_card(
            title=Path(recipe.path).stem,
            student=student_name(spec),
            teacher=teacher.name_or_path if teacher is not None else None,
            train_data=(experiment.stream or experiment.train).describe(),
            recipe_yaml=to_yaml(recipe.to_plain()),
            results=results,
        )
        # A card travels with the model: it names files as the recipe does, not where they are here.
        card = card.replace(f"{Path(recipe.path).resolve().parent}{os.sep}", "./")
        on_main_process(
            experiment.accelerator,
            lambda: save_model(
                self.folder / name,
                unwrap(self.model),
                experiment.tokenizer,
                card,
                loss_state=loss_state(experiment.box.criterion),
                note=training_note(
                    recipe.datasets.train.template,
                    begins_with_token=bool(experiment.train.prefix_ids),
                ),
            ),
        )

    def _close(self, history: History, loss_after: float | None) -> None:
        experiment, accelerator = self.experiment, self.experiment.accelerator
        if self.trainer.step_number == 0:
            raise RunFailure("no step was taken, so there is no result")
        seconds = time.perf_counter() - self.started_at
        summary = {
            "validation_loss_before": self.loss_before,
            "validation_loss_after": loss_after,
            "best_by": experiment.recipe.train.best_by,
            "best_score": history.best_score,
            "best_step": history.best_step,
            "validation": history.validation,
            "num_steps": self.trainer.step_number,
            "num_all_masked_batches": history.num_all_masked,
            "seconds": round(seconds, 1),
            "train_seconds": round(history.train_seconds, 1),
            "tokens_per_s": round(history.tokens_per_s, 1),
            "peak_memory_bytes": peak_memory_bytes(accelerator.device),
            "seed": experiment.recipe.seed,
            "num_processes": accelerator.num_processes,
            "versions": versions(),
        }
        on_main_process(accelerator, lambda: run_folder.write_summary(self.folder, summary))
        if accelerator.is_main_process:
            run_folder.remove_states(self.folder)
        if not accelerator.is_main_process:
            return
        for answer in self._samples():
            print(_show_answer(answer))
        if history.num_all_masked:
            print(f"{history.num_all_masked} batches had no supervised token and gave no gradient")
        if self.loss_before is not None and loss_after is not None:
            print(
                f"validation loss: {self.loss_before:.4f} before, {loss_after:.4f} after "
                f"{self.trainer.step_number} steps (nats per response token; perplexity "
                f"{_perplexity(self.loss_before)} before, {_perplexity(loss_after)} after)"
            )
        best = "last step" if history.best_score is None else f"step {history.best_step}"
        print(f"{seconds:.0f} s, {history.tokens_per_s:,.0f} tokens/s while training")
        print(f"best model ({best}): {self.folder / run_folder.BEST}")
        print(f"last model: {self.folder / run_folder.LAST}")
        print(f"metrics: {self.folder / run_folder.METRICS}, {self.folder / run_folder.SUMMARY}")

    def _samples(self) -> list[SampleAnswer]:
        experiment, samples = self.experiment, self.experiment.recipe.samples
        if experiment.validation is None or samples.num_rows == 0:
            return []
        return sample_answers(
            self.model,
            experiment.validation,
            experiment.tokenizer,
            num_rows=samples.num_rows,
            max_new_tokens=samples.max_new_tokens,
        )


def _show_answer(answer: SampleAnswer) -> str:
    def indented(text: str) -> str:
        return text.strip().replace("\n", "\n    ")

    return (
        f"\n  prompt:\n    {indented(answer.prompt)}\n  answer:\n    {indented(answer.answer)}\n"
        f"  reference:\n    {indented(answer.reference)}\n"
    )


def _perplexity(nll: float) -> str:
    return f"{math.exp(nll):.1f}" if nll < 20 else f"e^{nll:.1f}"
