"""One whole run: data, models, box and training, with every mistake found before it starts."""

from pathlib import Path

from accelerate import Accelerator

from distillens_plugin import output
from distillens_plugin.experiment import (
    Experiment,
    build_experiment,
    load_data,
    make_accelerator,
)
from distillens_plugin.full_form import to_yaml
from distillens_plugin.main_process import on_main_process, say
from distillens_plugin.models import num_parameters
from distillens_plugin.resume import find_standing, is_finished, load_state
from distillens_plugin.schema import Recipe
from distillens_plugin.training_run import TrainingRun
from distillens_plugin.validate import validate_without_weights
from eval_harness.atomic import write_text


def train(recipe: Recipe, folder: Path, *, overwrite: bool, resume: bool = False) -> int:
    """Trains what the recipe says and fills `folder`.

    Args:
        overwrite: replace a run that is there.
        resume: go on with it from its last whole epoch; start where there is none.
    Raises:
        DistillensError: a mistake in recipe, data, models or output folder, before training starts.
        RunFailure: training, saving or writing failed.
    """
    accelerator = make_accelerator(recipe, folder / output.TRACKERS)
    on_main_process(accelerator, lambda: _check(recipe, folder, overwrite or resume))
    standing = None
    if resume:
        processes = accelerator.num_processes
        standing = on_main_process(
            accelerator, lambda: find_standing(folder, recipe.to_plain(), processes)
        )
        if on_main_process(accelerator, lambda: is_finished(folder)):
            say(accelerator, f"{folder}: this run is finished; there is nothing to go on with")
            return 0
    experiment = build_and_describe(recipe, accelerator)
    if recipe.teacher_cache is not None:
        from distillens_plugin.teacher_cache import attach_teacher_cache

        say(accelerator, "\n".join(attach_teacher_cache(experiment).lines))
    # Only now that everything else stands is an earlier run replaced.
    if standing is None:
        on_main_process(accelerator, lambda: _prepare(folder, recipe))
    else:
        load_state(folder, accelerator, experiment.box)
        say(accelerator, f"going on after epoch {standing.epoch}, step {standing.step}")
    if recipe.trackers:
        accelerator.init_trackers("distillens", config={"recipe": to_yaml(recipe.to_plain())})
    TrainingRun(experiment, folder, standing).train()
    return 0


def build_and_describe(recipe: Recipe, accelerator: Accelerator) -> Experiment:
    """Loads data and models; prints the data's counts before weights load, then the sizes."""
    data = load_data(recipe)
    for dataset in data[1:]:
        if dataset is not None:
            say(accelerator, dataset.describe())
    experiment = build_experiment(recipe, accelerator, data)
    say(accelerator, describe_models(experiment))
    return experiment


def _check(recipe: Recipe, folder: Path, overwrite: bool) -> None:
    output.check_free(folder, overwrite=overwrite)
    validate_without_weights(recipe, overwrite=overwrite)


def _prepare(folder: Path, recipe: Recipe) -> None:
    output.clear(folder)
    write_text(folder / output.RECIPE, to_yaml(recipe.to_plain()))


def describe_models(experiment: Experiment) -> str:
    """Sizes of student and teacher, the layer pairs and the length of the run."""
    recipe, accelerator = experiment.recipe, experiment.accelerator
    student = experiment.student
    lines = [
        f"student: {num_parameters(student):,} parameters, "
        f"{num_parameters(student, trainable=True):,} trained, "
        f"{experiment.student_anatomy.num_layers} layers x {experiment.student_anatomy.width}"
    ]
    if experiment.teacher is not None and experiment.teacher_anatomy is not None:
        lines.append(
            f"teacher: {num_parameters(experiment.teacher):,} parameters, "
            f"{experiment.teacher_anatomy.num_layers} layers x {experiment.teacher_anatomy.width}"
        )
    for name, (term, weight) in experiment.box.criterion.term_dict.items():
        if hasattr(term, "pairs") and experiment.teacher_anatomy is not None:
            pairs = term.pairs(
                experiment.student_anatomy.num_layers, experiment.teacher_anatomy.num_layers
            )
            shown = " ".join(f"{a}-{b}" for a, b in pairs)
            lines.append(f"{name}: layer pairs {shown} (student-teacher), weight {weight}")
    if recipe.train.on_policy is not None:
        settings = recipe.train.on_policy
        lines.append(
            f"on-policy: the student answers {settings.share:.0%} of the rows itself "
            f"({settings.schedule})"
        )
    batch = recipe.train.train_data_loader.kwargs.batch_size or 1
    lines.append(
        f"run: {experiment.num_steps} steps, {experiment.steps_per_epoch} an epoch; "
        f"{batch} rows x {accelerator.num_processes} processes x "
        f"{recipe.train.optimizer.grad_accum_step} batches a step; {accelerator.device}, "
        f"precision {recipe.mixed_precision}"
    )
    return "\n".join(lines)
