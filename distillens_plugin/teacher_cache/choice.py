"""How much of the teacher a run must load: decided from its cache and from files."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distillens_plugin.data.dataset import InstructionDataset
from distillens_plugin.data.streaming import TrainingData
from distillens_plugin.experiment.data import load_data
from distillens_plugin.models.pretrained import checked_folder
from distillens_plugin.models.states_only import not_reducible
from distillens_plugin.recipe.loading import as_typed
from distillens_plugin.recipe.schema.layers import unmeasured
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.teacher_cache.fingerprint import (
    TRAINING,
    engine_of,
    format_of,
    unread_states,
)
from distillens_plugin.teacher_cache.folder import owner_of
from distillens_plugin.teacher_cache.identity import make_fingerprint
from distillens_plugin.teacher_cache.model_facts import facts_of
from distillens_plugin.teacher_cache.plan import Plan, plan_from_configs
from distillens_plugin.teacher_cache.shards import find_torn, read_index, shard_paths
from eval_harness.errors import DistillensError


def needs_readout_alone(recipe: Recipe, examples: TrainingData) -> bool:
    """Whether the cache of a recipe has all that a run asks its teacher for.

    Raises:
        DistillensError: `teacher: states_only` with a cache that is not full, or a cache that lacks
            rows and was filled by another engine than a run; names the command that fills it.
    """
    assert recipe.teacher_cache is not None  # the caller has checked
    assert isinstance(examples, InstructionDataset)  # the schema refuses a stream beside a cache
    if recipe.teacher_cache.teacher == "whole":
        return False
    lacking = _lacking(recipe, examples, weigh=True)
    if lacking is not None and recipe.teacher_cache.teacher == "states_only":
        raise DistillensError(f"{recipe.where('teacher_cache.teacher')}: {lacking}")
    return lacking is None


def num_lacking(recipe: Recipe) -> int:
    """How many training rows the cache of a recipe lacks, by a look at files.

    For layers that are yet to be measured, all rows of a folder that holds no cache, else none.

    Raises:
        DistillensError: the data or the teacher's folder are wrong.
    """
    assert recipe.teacher_cache is not None  # the caller has checked
    _, examples, _ = load_data(recipe)
    assert isinstance(examples, InstructionDataset)  # the schema refuses a stream beside a cache
    if unmeasured(recipe.layer_terms()):
        is_empty = owner_of(Path(recipe.teacher_cache.path)) is None
        return len(examples) if is_empty else 0
    plan = plan_from_configs(recipe, examples, facts_of(recipe))
    return len(missing_rows(plan.folder, plan.row_ids, thorough=False))


def describe_choice(recipe: Recipe) -> str:
    """The line of --validate, which reads neither the teacher's weights nor the states.

    Raises:
        DistillensError: as `needs_readout_alone` does.
    """
    assert recipe.teacher_cache is not None  # the caller has checked
    path, wanted = recipe.teacher_cache.path, recipe.teacher_cache.teacher
    if wanted == "whole":
        return f"ok teacher_cache: {path}; the whole teacher is loaded"
    if wanted == "auto" and owner_of(Path(path)) is None:
        return f"ok teacher_cache: {path} holds no states yet; the whole teacher is loaded"
    _, examples, _ = load_data(recipe)
    assert isinstance(examples, InstructionDataset)  # the schema refuses a stream beside a cache
    lacking = _lacking(recipe, examples, weigh=False)
    if lacking is not None and wanted == "states_only":
        raise DistillensError(f"{recipe.where('teacher_cache.teacher')}: {lacking}")
    if lacking is not None:
        return f"ok teacher_cache: the whole teacher is loaded ({lacking})"
    return (
        f"ok teacher_cache: {path} is full; only the teacher's readout and head are loaded "
        "(skipped its weights because hashing them takes long)"
    )


def _lacking(recipe: Recipe, examples: InstructionDataset, *, weigh: bool) -> str | None:
    """What stands against loading the readout alone; None if nothing does.

    Raises:
        DistillensError: no run can use this cache, whatever it loads.
    """
    reason = _needs_body(recipe)
    if reason is not None:
        return reason
    plan = plan_from_configs(recipe, examples, facts_of(recipe))
    stored = owner_of(plan.folder)
    if stored is None:
        return f"{plan.folder} holds no states yet; {fill_command(recipe)}"
    if isinstance(stored, dict) and format_of(stored, plan.place) == 1:
        return (
            f"{plan.folder} was filled by an older version, which compared the whole teacher; set "
            "teacher_cache.teacher: whole, or name another path and fill it"
        )
    # A hash of 140 GB takes minutes: not for a mere look.
    own = make_fingerprint(recipe, examples, plan.states, weigh=weigh)
    if not weigh and isinstance(stored, dict):
        own = replace(own, teacher=str(stored.get("teacher")))
    if different := own.differences(stored):
        raise holds_other_states(plan, different)
    num_missing = len(missing_rows(plan.folder, plan.row_ids, thorough=weigh))
    if not num_missing:
        return None
    found = f"{plan.folder} lacks {num_missing:,} of {len(plan.row_ids):,} rows"
    refuse_to_complete(plan, stored)
    engine = engine_of(stored)
    if engine.get("engine") != TRAINING or own.engine_differences(stored):
        raise DistillensError(f"{plan.where}.path: {found}; {fill_command(recipe, engine)}")
    return f"{found}; {fill_command(recipe)}"


def holds_other_states(plan: Plan, different: Sequence[str]) -> DistillensError:
    """The refusal of a cache of something else."""
    return DistillensError(
        f"{plan.where}.path: {plan.folder} holds other states ({'; '.join(different)}); name "
        "another path or delete that folder"
    )


def refuse_to_complete(plan: Plan, stored: object) -> None:
    """Raises if rows are missing from a cache that holds more states than the recipe reads.

    Raises:
        DistillensError: says whose work it is.
    """
    if unread := unread_states(plan.states, stored):
        raise DistillensError(
            f"{plan.where}.path: {plan.folder} lacks rows, and holds states that this recipe does "
            f"not read ({' '.join(unread)}), so it cannot add any; fill it with the recipe that "
            "reads these, or name another path"
        )


def fill_command(recipe: Recipe, engine: dict[str, str] | None = None) -> str:
    """What to do about missing rows.

    Args:
        engine: that filled the rest of the cache, if it was not a run.
    """
    name = (engine or {}).get("engine", "hf").partition("-")[0]
    if name == TRAINING:
        return "fill another path, since its versions or types are not those of now"
    return f"fill it: distillens cache {as_typed(recipe)} --model {name}"


def missing_rows(folder: Path, row_ids: Sequence[str], *, thorough: bool = True) -> list[str]:
    """Rows of which no whole shard has the states.

    Args:
        thorough: read every byte of the cache, which a run does once.
    """
    torn = set(find_torn(folder)) if thorough else set()
    there: set[str] = set()
    for path in shard_paths(folder):
        # A look that reads no shard may still meet an index that cannot be read.
        with contextlib.suppress(ValueError):
            if path not in torn and path.is_file():
                there.update(row_id for row_id, _ in read_index(path).rows)
    return [row_id for row_id in row_ids if row_id not in there]


def _needs_body(recipe: Recipe) -> str | None:
    """Why a recipe needs the teacher's blocks in whatever state its cache is."""
    teacher = recipe.models.teacher_model
    assert teacher is not None  # the schema refuses a cache without a teacher
    init = recipe.models.trained.init
    if init is not None and init.from_teacher_layers is not None and init.teacher is None:
        return (
            "the student is cut from the teacher's blocks; set init.teacher, which is loaded, cut "
            "and forgotten, or teacher_cache.teacher: whole"
        )
    if measured := unmeasured(recipe.layer_terms()):
        return (
            f"the layers of {measured[0]} are to be measured on the whole teacher; give them as "
            "layers.measured, which a run writes into its recipe.yaml and --dry-run prints"
        )
    given = recipe.train.teacher
    hooks = given.forward_hook if given is not None else None
    named = [*hooks.input, *hooks.output] if hooks is not None else []
    named += [
        layer
        for _, paired in recipe.layer_terms()
        for layer in paired.layers.teacher or []
        if isinstance(layer, str)
    ]
    if named:
        return f"the recipe names a module of the teacher ({named[0]}), which must then be loaded"
    _, checked = checked_folder(teacher, where="models.teacher_model")
    return not_reducible(checked.config)
