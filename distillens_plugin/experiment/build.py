"""From a checked recipe to a torchdistill box that is ready to train: data, models, hooks,
optimiser.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import set_seed
from torch import nn
from torchdistill.common.main_util import import_dependencies
from torchdistill.core.distillation import DistillationBox
from torchdistill.core.training import TrainingBox
from torchdistill.datasets.util import build_data_loader
from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.examples import InstructionDataset, load_examples
from distillens_plugin.lens.discovery import Anatomy, find_anatomy
from distillens_plugin.lens.hooks import check_paths
from distillens_plugin.lens.positions import check_positions
from distillens_plugin.losses.trained_parameters import adopt
from distillens_plugin.models.end_tokens import end_token_ids
from distillens_plugin.models.loading import load_student, load_teacher
from distillens_plugin.models.tokenizers import (
    beginnings_differ,
    check_vocabularies,
    load_tokenizer,
)
from distillens_plugin.on_policy.loader import OnPolicyLoader
from distillens_plugin.preflight.rouge_check import check_rouge_words
from distillens_plugin.preflight.run_length import check_steps
from distillens_plugin.preflight.trial_save import check_saving
from distillens_plugin.recipe.full_form import full_form, total_steps
from distillens_plugin.recipe.schema.criterion import OWN_SUM
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.schema.terms import OWN_TERMS
from distillens_plugin.storage.main_process import on_main_process
from eval_harness.errors import DistillensError


@dataclass
class Experiment:
    """All that a run needs, built in the order in which mistakes are cheapest to find.

    Attributes:
        box: torchdistill's DistillationBox, or its TrainingBox where there is no teacher.
        teacher_anatomy: None without a teacher.
        validation: None where the recipe has no validation data.
        num_steps: optimiser steps of the whole run.
        steps_per_epoch: optimiser steps of one epoch.
    """

    recipe: Recipe
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    train: InstructionDataset
    validation: InstructionDataset | None
    teacher: nn.Module | None
    student: nn.Module
    student_anatomy: Anatomy
    teacher_anatomy: Anatomy | None
    box: Any
    num_steps: int
    steps_per_epoch: int


def make_accelerator(recipe: Recipe, tracker_folder: Path | None) -> Accelerator:
    """accelerate, with the recipe's precision and trackers; processes come from its launcher."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    for tracker in recipe.trackers:
        _check_tracker(tracker)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        log_with=(list(recipe.trackers) or None) if tracker_folder is not None else None,
        project_dir=str(tracker_folder) if tracker_folder is not None else None,
    )
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise DistillensError(
            f"accelerate is set up for {kind}, which shards the unembedding that the lens "
            "reads; use "
            "plain data parallelism (accelerate launch --multi_gpu)"
        )
    return accelerator


def _check_tracker(tracker: str) -> None:
    from accelerate.tracking import get_available_trackers

    if tracker not in {str(name) for name in get_available_trackers()}:
        raise DistillensError(f"trackers: {tracker} is not installed; pip install {tracker}")


def load_data(
    recipe: Recipe,
) -> tuple[PreTrainedTokenizerBase, InstructionDataset, InstructionDataset | None]:
    """Tokenizer, training and validation data; teacher and student must share a vocabulary."""
    spec = recipe.models.trained
    tokenizer = load_tokenizer(
        recipe.models.tokenizer_name,
        revision=spec.revision,
        trust_remote_code=spec.trust_remote_code,
    )
    teacher = recipe.models.teacher_model
    notes: list[str] = []
    if teacher is not None and teacher.tokenizer_name != recipe.models.tokenizer_name:
        teachers = load_tokenizer(
            teacher.tokenizer_name,
            revision=teacher.revision,
            trust_remote_code=teacher.trust_remote_code,
        )
        check_vocabularies(teachers, tokenizer)
        if recipe.datasets.train.add_bos_token == "auto":
            notes = beginnings_differ(teachers, tokenizer)
    data = recipe.datasets
    train = load_examples(data.train, tokenizer, where=recipe.where("datasets.train"))
    train.notes += tuple(notes)
    validation = None
    if data.validation is not None:
        validation = load_examples(
            data.validation,
            tokenizer,
            where=recipe.where("datasets.validation"),
            default_split="validation",
        )
        if recipe.train.best_by == "rougeL":
            references = (row.references for row in validation.rows)
            note = check_rouge_words(references, recipe.where("datasets.validation"))
            validation.notes += (note,) if note is not None else ()
    return tokenizer, train, validation


def build_experiment(
    recipe: Recipe,
    accelerator: Accelerator,
    data: tuple[PreTrainedTokenizerBase, InstructionDataset, InstructionDataset | None],
) -> Experiment:
    """Loads the models and builds torchdistill's box.

    Raises:
        DistillensError: weights, architecture, layers or module paths do not fit the recipe.
    """
    tokenizer, train, validation = data
    _check_normalisation(recipe, accelerator)
    set_seed(recipe.seed)
    teacher = None
    if recipe.models.teacher_model is not None:
        teacher = load_teacher(recipe.models.teacher_model)
    student = load_student(
        recipe.models.trained,
        tokenizer,
        teacher=teacher,
        where=f"models.{recipe.trained_role}",
        end_ids=end_token_ids(tokenizer, train, validation),
    )
    # transformers saves nothing on other processes than the first.
    on_main_process(
        accelerator,
        lambda: check_saving(
            student,
            tokenizer,
            where=recipe.where(f"models.{recipe.trained_role}"),
            trust_remote_code=recipe.models.trusts_trained_code,
        ),
    )
    student_anatomy = find_anatomy(student)
    teacher_anatomy = find_anatomy(teacher) if teacher is not None else None
    _check_embeddings(student_anatomy, teacher_anatomy, tokenizer)
    for role, model in (("student", student), ("teacher", teacher)):
        check_positions(role, model, train, validation, recipe)
    try:
        steps_per_epoch = _steps_per_epoch(
            full_form(recipe, student_anatomy, teacher_anatomy), train, accelerator
        )
    except (TypeError, ValueError) as error:
        where = recipe.where("train.train_data_loader")
        raise DistillensError(f"{where}: cannot be built ({error})") from error
    check_steps(recipe, len(train), steps_per_epoch)
    form = full_form(recipe, student_anatomy, teacher_anatomy, steps_per_epoch=steps_per_epoch)
    _check_hooks(form["train"], student, teacher, recipe)
    import_dependencies(form["dependencies"])
    box = build_box(form, teacher, student, train, accelerator)
    adopt(box)
    if recipe.train.on_policy is not None:
        box.train_data_loader = OnPolicyLoader(
            box.train_data_loader,
            box.student_model,
            box.teacher_model,
            train,
            recipe.train.on_policy,
            tokenizer=tokenizer,
            seed=recipe.seed,
            accelerator=accelerator,
            batches_per_step=box.grad_accum_step,
        )
    num_steps = total_steps(recipe, steps_per_epoch)
    assert num_steps is not None  # steps_per_epoch is known
    return Experiment(
        recipe=recipe,
        accelerator=accelerator,
        tokenizer=tokenizer,
        train=train,
        validation=validation,
        teacher=teacher,
        student=student,
        student_anatomy=student_anatomy,
        teacher_anatomy=teacher_anatomy,
        box=box,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
    )


def build_box(
    form: dict[str, Any],
    teacher: nn.Module | None,
    student: nn.Module,
    train: InstructionDataset,
    accelerator: Accelerator,
) -> Any:
    """torchdistill's box for a full form; validation is ours, so the box gets no loader for it."""
    config = {**form["train"], "val_data_loader": {}}
    shared = {
        "dataset_dict": {"train": train},
        "train_config": config,
        "device": accelerator.device,
        "device_ids": [accelerator.local_process_index],
        "distributed": accelerator.num_processes > 1,
        "lr_factor": 1.0,
        "accelerator": accelerator,
    }
    if teacher is None:
        return TrainingBox(model=student, **shared)
    return DistillationBox(teacher_model=teacher, student_model=student, **shared)


def _steps_per_epoch(
    form: dict[str, Any], train: InstructionDataset, accelerator: Accelerator
) -> int:
    """Optimiser steps of an epoch, as accelerate will deal the batches out over the ranks."""
    loader = build_data_loader(
        train, form["train"]["train_data_loader"], accelerator.num_processes > 1, accelerator
    )
    dealt = prepare_data_loader(
        loader,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        put_on_device=False,
    )
    return math.ceil(len(dealt) / form["train"]["optimizer"].get("grad_accum_step", 1))


def _check_embeddings(
    student: Anatomy, teacher: Anatomy | None, tokenizer: PreTrainedTokenizerBase
) -> None:
    for role, anatomy in (("student", student), ("teacher", teacher)):
        if anatomy is not None and anatomy.vocab_size < len(tokenizer):
            raise DistillensError(
                f"the {role} has an unembedding of {anatomy.vocab_size} tokens, but the "
                "tokenizer has "
                f"{len(tokenizer)}; use the {role}'s own tokenizer or a model that was "
                "resized for it"
            )


def _check_normalisation(recipe: Recipe, accelerator: Accelerator) -> None:
    """Refuses a mean over a batch where it would be summed over a window as if it were a sum."""
    criterion = recipe.train.criterion
    batches = recipe.train.optimizer.grad_accum_step * accelerator.num_processes
    foreign = [n for n, t in criterion.kwargs.sub_terms.items() if t.criterion.key not in OWN_TERMS]
    if criterion.key != OWN_SUM and batches > 1 and (foreign or criterion.kwargs.model_term):
        raise DistillensError(
            f"{recipe.where('train.criterion.key')}: found {criterion.key} with "
            f"{foreign[0] if foreign else 'model_term'}, a mean over its own batch, in steps of "
            f"{batches} batches; expected {OWN_SUM}, which weighs it by its supervised tokens"
        )


def _check_hooks(
    train: dict[str, Any], student: nn.Module, teacher: nn.Module | None, recipe: Recipe
) -> None:
    for role, model in (("student", student), ("model", student), ("teacher", teacher)):
        hooks = train.get(role, {}).get("forward_hook", {})
        if model is not None:
            for kind, paths in hooks.items():
                check_paths(model, paths, where=f"{recipe.path}: train.{role}.forward_hook.{kind}")
