"""From a checked recipe to a torchdistill box that is ready to train."""

from dataclasses import replace

from accelerate import Accelerator
from accelerate.utils import set_seed
from torchdistill.common.main_util import import_dependencies

from distillens_plugin.data.streaming import StreamedDataset, first_examples
from distillens_plugin.experiment.box import TrainingRows, build_box, steps_per_epoch
from distillens_plugin.experiment.checks import (
    check_embeddings,
    check_hooks,
    check_normalisation,
    check_positions,
)
from distillens_plugin.experiment.data import RunData
from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.experiment.layer_choice import measured
from distillens_plugin.experiment.packing import check_models, packed
from distillens_plugin.experiment.placement import placement_of
from distillens_plugin.experiment.readers import anatomy_on_all
from distillens_plugin.experiment.streaming import stream_epoch_steps, stream_loader
from distillens_plugin.losses.trained_parameters import adopt
from distillens_plugin.models.end_tokens import end_token_ids
from distillens_plugin.models.loading import load_student, load_teacher
from distillens_plugin.models.states_only import load_readout
from distillens_plugin.on_policy.loader import OnPolicyLoader
from distillens_plugin.preflight.run_length import check_intervals, check_steps
from distillens_plugin.preflight.trial_save import check_saving
from distillens_plugin.recipe.full_form import full_form, total_steps, train_loader_form
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.storage.main_process import on_main_process
from eval_harness.errors import DistillensError


def build_experiment(
    recipe: Recipe,
    accelerator: Accelerator,
    data: RunData,
    *,
    states_only: bool = False,
) -> Experiment:
    """Loads the models and builds torchdistill's box.

    Args:
        states_only: of the teacher only what reads its states, which come from a cache.
    Raises:
        DistillensError: weights, architecture, layers or module paths do not fit the recipe.
    """
    tokenizer, given, validation = data
    train = first_examples(given)
    check_normalisation(recipe, accelerator)
    rows = given if isinstance(given, StreamedDataset) else packed(recipe, given, accelerator)
    set_seed(recipe.seed)
    placement = placement_of(recipe, accelerator)
    teacher = teacher_anatomy = readout = None
    if states_only:
        # As small as a head: each process holds all of it.
        placement = replace(placement, teacher_sharded=False)
    if recipe.models.teacher_model is not None:
        with placement.loading_teacher():
            if states_only:
                readout = load_readout(recipe.models.teacher_model)
                teacher = readout.model
            else:
                teacher = load_teacher(recipe.models.teacher_model)
        one_rank_reads = placement.one_rank_reads and placement.teacher_sharded
        teacher_anatomy = anatomy_on_all(teacher, accelerator, one_rank_reads=one_rank_reads)
    # peft draws numbers as it merges a teacher's adapter, fewer where its readout alone is loaded:
    # the student must be the same student.
    set_seed(recipe.seed)
    with placement.loading_student(recipe.models.trained):
        student = load_student(
            recipe.models.trained,
            tokenizer,
            teacher=teacher,
            where=f"models.{recipe.trained_role}",
            end_ids=end_token_ids(tokenizer, train, validation),
        )
    # transformers saves on the first process only.
    on_main_process(
        accelerator,
        lambda: check_saving(
            student,
            tokenizer,
            where=recipe.where(f"models.{recipe.trained_role}"),
            trust_remote_code=recipe.models.trusts_trained_code,
        ),
    )
    student_anatomy = anatomy_on_all(student, accelerator, one_rank_reads=placement.one_rank_reads)
    check_embeddings(student_anatomy, teacher_anatomy, tokenizer)
    for role, model in (("student", student), ("teacher", teacher)):
        check_positions(role, model, train, validation, recipe)
    epoch_steps = _epoch_steps(recipe, rows, len(train), accelerator)
    check_intervals(recipe, epoch_steps)
    recipe, layer_records = measured(
        recipe, student, teacher, train, accelerator, in_place=placement.moves_after_box
    )
    form = full_form(recipe, student_anatomy, teacher_anatomy, steps_per_epoch=epoch_steps)
    check_hooks(form["train"], student, teacher, recipe)
    import_dependencies(form["dependencies"])
    try:
        with placement.in_box(teacher, student, accelerator):
            box = build_box(form, teacher, student, rows, accelerator)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        # Arguments of torch's optimizers, schedulers and losses are only known to these.
        raise DistillensError(
            f"{recipe.where('train')}: torchdistill cannot build it ({error}); check the kwargs of "
            "optimizer, scheduler and criterion"
        ) from error
    check_models(recipe, teacher, student, accelerator)
    adopt(box)
    if isinstance(given, StreamedDataset):
        box.train_data_loader = stream_loader(recipe, given, accelerator)
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
    num_steps = total_steps(recipe, epoch_steps)
    assert num_steps is not None  # epoch_steps is known
    return Experiment(
        recipe=recipe,
        accelerator=accelerator,
        tokenizer=tokenizer,
        train=train,
        stream=given if isinstance(given, StreamedDataset) else None,
        validation=validation,
        teacher=teacher,
        student=student,
        student_anatomy=student_anatomy,
        teacher_anatomy=teacher_anatomy,
        box=box,
        num_steps=num_steps,
        steps_per_epoch=epoch_steps,
        readout=readout,
        layer_records=layer_records,
    )


def _epoch_steps(
    recipe: Recipe, rows: TrainingRows | StreamedDataset, num_rows: int, accelerator: Accelerator
) -> int:
    """Optimiser steps of an epoch; at least one."""
    if isinstance(rows, StreamedDataset):
        return stream_epoch_steps(recipe)
    accum_step = recipe.train.optimizer.grad_accum_step
    try:
        found = steps_per_epoch(
            train_loader_form(recipe), rows, accelerator, grad_accum_step=accum_step
        )
    except (TypeError, ValueError) as error:
        where = recipe.where("train.train_data_loader")
        raise DistillensError(f"{where}: cannot be built ({error})") from error
    check_steps(recipe, num_rows, found)
    return found
