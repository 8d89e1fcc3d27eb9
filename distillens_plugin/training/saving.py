"""The student of a run as a model folder: `best` and `last`, each with a card."""

import os
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.integrations.torchdistill.processes import trained_model
from distillens_plugin.lens.discovery import unwrap
from distillens_plugin.losses.trained_parameters import loss_state
from distillens_plugin.recipe.yaml_dumper import to_yaml
from distillens_plugin.sharding.state import model_state
from distillens_plugin.sharding.whole_model import whole_model
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.card_metadata import card_metadata
from distillens_plugin.storage.main_process import on_main_process, say
from distillens_plugin.storage.model_card import model_card, student_name
from distillens_plugin.storage.model_folder import save_model
from distillens_plugin.training.evaluation import Evaluation
from distillens_plugin.training.later_best import with_step
from eval_harness.shared.model_folder.trained_with import training_note


def save_student(
    folder: Path, name: str, experiment: Experiment, evaluation: Evaluation, *, step: int
) -> None:
    """Saves the student as it is now; every process calls it.

    Args:
        folder: of the run.
        name: of the model's folder there.
        evaluation: its scores are on the card if they are of this step.
        step: optimiser steps taken.
    Raises:
        RunFailure: the model cannot be saved.
    """
    recipe = experiment.recipe
    if name == run_folder.LAST and experiment.stream is not None:
        say(experiment.accelerator, experiment.stream.describe())
    teacher = recipe.models.teacher_model
    scores = evaluation.scores if evaluation.step == step else {}
    results: dict[str, Any] = {"optimiser steps": step, **scores}
    if evaluation.loss_before is not None:
        results["validation_loss before training"] = evaluation.loss_before
    title = Path(recipe.path).stem
    card = model_card(
        title=title,
        student=student_name(recipe.models.trained),
        teacher=teacher.name_or_path if teacher is not None else None,
        train_data=(experiment.stream or experiment.train).describe(),
        recipe_yaml=to_yaml(recipe.to_plain()),
        results=results,
        metadata=card_metadata(recipe, scores, title=title),
    )
    # A card travels with the model: it names files as the recipe does, not where they are here.
    card = card.replace(f"{Path(recipe.path).resolve().parent}{os.sep}", "./")
    note = training_note(
        recipe.datasets.train.template, begins_with_token=bool(experiment.train.prefix_ids)
    )
    student = unwrap(trained_model(experiment.box))
    # All processes gather the weights of a sharded student.
    weights = model_state(student)
    on_main_process(
        experiment.accelerator,
        lambda: save_model(
            folder / name,
            cast(PreTrainedModel, whole_model(student, weights)),
            experiment.tokenizer,
            card,
            loss_state=loss_state(experiment.box.criterion),
            note=with_step(note, step, scores.get(evaluation.score_name)),
        ),
    )
