"""One whole run: data, models, box, training. Every mistake is found before training starts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import RunData, load_data
from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.experiment.layer_choice import with_pairs
from distillens_plugin.preflight.run_length import check_enough_rows, schedule_notes
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.schema.by_steps import interval_in_steps
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.yaml_dumper import to_yaml
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.fingerprint import (
    Fingerprint,
    changed_surroundings,
    check_same_inputs,
    make_fingerprint,
)
from distillens_plugin.storage.hub_upload import push_best
from distillens_plugin.storage.kept_state import Standing, check_can_be_kept, load_state
from distillens_plugin.storage.main_process import on_main_process, say, say_all
from distillens_plugin.storage.run_lock import locked_output
from distillens_plugin.storage.seen_by_all import check_seen_by_all
from distillens_plugin.training.describe import describe_models
from distillens_plugin.training.diverged import noted
from distillens_plugin.training.kept_pairs import encode_pairs, kept_text, pairs_to_reuse
from distillens_plugin.training.lifecycle import TrainingRun
from distillens_plugin.training.other_processes import told
from distillens_plugin.training.progress import no_bars_in_logs
from distillens_plugin.training.resume import Kept, encode_fingerprint, find_kept, put_records_back
from distillens_plugin.training.stream_position import check_stream
from distillens_plugin.training.trackers import start_trackers
from eval_harness.shared.files.atomic import write_text


def train(recipe: Recipe, folder: Path, *, overwrite: bool, resume: bool = False) -> int:
    """Trains as the recipe says and fills `folder`.

    Args:
        overwrite: replace an existing run.
        resume: continue it from the last state that it kept; start one where there is none.
    Raises:
        DistillensError: a mistake in recipe, data, models or output folder, before training starts.
        RunFailure: training, saving or writing failed.
    """
    no_bars_in_logs()
    accelerator = make_accelerator(recipe, folder / run_folder.TRACKERS)
    with locked_output(folder, accelerator):
        return _train_locked(recipe, folder, accelerator, overwrite=overwrite, resume=resume)


def _train_locked(
    recipe: Recipe, folder: Path, accelerator: Accelerator, *, overwrite: bool, resume: bool
) -> int:
    on_main_process(accelerator, lambda: _check(recipe, folder, overwrite or resume))
    if recipe.resumable:
        check_seen_by_all(folder, accelerator)
    recipe_yaml = to_yaml(recipe.to_plain())
    kept: Kept | None = None
    if resume:
        processes = accelerator.num_processes
        kept = on_main_process(accelerator, lambda: find_kept(folder, recipe_yaml, processes))
    data = load_and_describe_data(recipe, accelerator)
    fingerprint = on_main_process(
        accelerator, lambda: _fingerprint(recipe, data, accelerator, folder, kept)
    )
    if kept is not None:
        say_all(accelerator, kept.lines)
        if kept.finished:
            _push(recipe, folder, accelerator)
            return 0
        recipe, kept = _with_known_pairs(recipe, folder, accelerator, kept, fingerprint)
    experiment = build_and_describe(recipe, accelerator, data)
    recipe = experiment.recipe
    if recipe.resumable:
        check_can_be_kept(accelerator, experiment.box)
    before_keeping: Callable[[], None] = _nothing
    if recipe.teacher_cache is not None:
        from distillens_plugin.teacher_cache import attach_teacher_cache

        cache = attach_teacher_cache(experiment)
        say(accelerator, "\n".join(cache.lines))
        # Rows computed before a state are read again after it, as without an interruption.
        before_keeping = cache.end_epoch
    standing = _put_back(experiment, folder, kept)
    start_trackers(recipe, folder, accelerator, anew=standing is None)
    # An earlier run is replaced only now, when the trackers have started and nothing else can fail.
    if standing is None:
        on_main_process(accelerator, lambda: _prepare(folder, experiment, fingerprint))
        say_all(accelerator, _nothing_kept(experiment))
    run = TrainingRun(experiment, folder, fingerprint, before_keeping)
    with noted(folder, accelerator):
        run.train(standing, kept.state if kept is not None else None)
    _push(recipe, folder, accelerator)
    return 0


def load_and_describe_data(recipe: Recipe, accelerator: Accelerator) -> RunData:
    """Loads tokenizer and data, and prints the data's counts."""
    data = load_data(recipe)
    for dataset in data[1:]:
        if dataset is not None:
            say(accelerator, dataset.describe())
    if isinstance(data[1], InstructionDataset):
        check_enough_rows(recipe, len(data[1]), accelerator.num_processes)
    return data


def build_and_describe(recipe: Recipe, accelerator: Accelerator, data: RunData) -> Experiment:
    """Loads models (of the teacher, what its cache leaves to be read), and prints the sizes."""
    states_only = False
    if recipe.teacher_cache is not None:
        from distillens_plugin.teacher_cache import needs_readout_alone

        states_only = on_main_process(accelerator, lambda: needs_readout_alone(recipe, data[1]))
    experiment = build_experiment(recipe, accelerator, data, states_only=states_only)
    say(accelerator, describe_models(experiment))
    notes = schedule_notes(recipe, experiment.num_steps, experiment.steps_per_epoch)
    say_all(accelerator, notes)
    return experiment


def _push(recipe: Recipe, folder: Path, accelerator: Accelerator) -> None:
    """The last act, on the main process; the others have ended their part and do not wait."""
    line = push_best(recipe, folder) if accelerator.is_main_process else None
    if line is not None:
        say(accelerator, line)


def _check(recipe: Recipe, folder: Path, overwrite: bool) -> None:
    run_folder.check_free(folder, overwrite=overwrite)
    validate_without_weights(recipe, overwrite=overwrite)


def _fingerprint(
    recipe: Recipe, data: RunData, accelerator: Accelerator, folder: Path, kept: Kept | None
) -> Fingerprint:
    """What the run learns from; must equal what an earlier run here started with."""
    fingerprint = make_fingerprint(recipe, data[1], data[2], accelerator.device)
    if kept is not None and kept.fingerprint is not None:
        check_same_inputs(kept.fingerprint, fingerprint, folder)
        change = changed_surroundings(kept.fingerprint, fingerprint)
        if change is not None and not kept.finished:
            kept.lines.append(change)
    return fingerprint


def _put_back(experiment: Experiment, folder: Path, kept: Kept | None) -> Standing | None:
    """Loads the state that an earlier run kept, if there is one."""
    if kept is None or kept.standing is None or kept.state is None:
        return None
    accelerator = experiment.accelerator
    say_all(accelerator, told(experiment, kept.standing))
    check_stream(experiment, kept.standing, folder)
    load_state(kept.state, accelerator, experiment.box, seed=experiment.recipe.seed)
    say_all(accelerator, on_main_process(accelerator, lambda: put_records_back(folder, kept)))
    standing = kept.standing
    if standing.batches_taken > 0:
        say(accelerator, f"resuming within epoch {standing.epoch + 1}, after step {standing.step}")
    else:
        say(accelerator, f"resuming after epoch {standing.epoch}, step {standing.step}")
    return standing


def _with_known_pairs(
    recipe: Recipe, folder: Path, accelerator: Accelerator, kept: Kept, fingerprint: Fingerprint
) -> tuple[Recipe, Kept]:
    """The recipe with the layer pairs that the interrupted run measured, and what it left."""
    of_state = None if kept.standing is None else kept.measured
    pairs, lines = on_main_process(
        accelerator, lambda: pairs_to_reuse(recipe, folder, of_state, fingerprint)
    )
    say_all(accelerator, lines)
    recipe = with_pairs(recipe, pairs) if pairs else recipe
    if kept.standing is not None and kept.other_processes:
        # Compared as it was given, and kept with its pairs.
        kept.standing = replace(kept.standing, recipe=to_yaml(recipe.to_plain()))
    return recipe, kept


def _prepare(folder: Path, experiment: Experiment, fingerprint: Fingerprint) -> None:
    recipe, records = experiment.recipe, experiment.layer_records
    pairs = (
        encode_pairs(recipe, records, fingerprint)
        if records
        else kept_text(recipe, folder, fingerprint)
    )
    # The trackers are the new run's already.
    with run_folder.cleared(folder, keep=(run_folder.TRACKERS,) if recipe.trackers else ()):
        write_text(folder / run_folder.RECIPE, to_yaml(recipe.to_plain()))
        write_text(folder / run_folder.FINGERPRINT, encode_fingerprint(fingerprint))
        if pairs is not None:
            write_text(folder / run_folder.PAIRS, pairs)


def _nothing_kept(experiment: Experiment) -> list[str]:
    """A note where a run that is killed could not be resumed."""
    recipe = experiment.recipe
    if not recipe.resumable:
        return []
    every, epoch_steps = recipe.train.save_every, experiment.steps_per_epoch
    first = epoch_steps if every is None else interval_in_steps(every, epoch_steps)
    if first < experiment.num_steps:
        return []
    when = "after each epoch, and this run has only one" if every is None else "at its end alone"
    return [
        f"note: a state is kept {when}: if killed, it starts again from step 0; train.save_every "
        "keeps more"
    ]


def _nothing() -> None:
    """There is nothing to write before a state."""
