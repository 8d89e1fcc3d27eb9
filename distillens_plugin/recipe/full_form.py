"""The full torchdistill configuration that a recipe stands for: what a plain box takes.

A recipe leaves out what can be derived: hooks from layer numbers, samplers, collation and the like.
"""

import copy
import math
from typing import Any, Protocol

from distillens_plugin.lens.layers import Layer, forward_hook_config, resolve_pairs
from distillens_plugin.recipe.schema.loaders import IN_ORDER, STREAMED, DataLoader, LoaderKwargs
from distillens_plugin.recipe.schema.names import OWN_SUM
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.schema.terms import TERMS
from distillens_plugin.recipe.schema.train import BoxModel
from distillens_plugin.recipe.yaml_reader import ImportedName
from distillens_plugin.tables.makers import resolve
from eval_harness.errors import DistillensError


class BlockFacts(Protocol):
    """What hooks are derived from: how many blocks a model has, and the path of their list."""

    @property
    def num_layers(self) -> int: ...

    @property
    def blocks(self) -> str | None: ...


def full_form(
    recipe: Recipe,
    student_facts: BlockFacts,
    teacher_facts: BlockFacts | None = None,
    *,
    steps_per_epoch: int | None = None,
) -> dict[str, Any]:
    """The whole recipe as plain data, with a `train` section that torchdistill's boxes take.

    Every call makes new data: a box multiplies the learning rate in place.

    Args:
        student_facts: of the trained model: `facts_from_config` or `find_anatomy`.
        teacher_facts: of the teacher; None without one.
        steps_per_epoch: optimiser steps of one epoch. Without it, what depends on it is None: the
            schedule's num_steps where the recipe says num_epochs, and num_epochs where it says
            num_steps.
    Raises:
        DistillensError: a layer out of range.
    """
    num_steps = total_steps(recipe, steps_per_epoch)
    hooks = _hooks(recipe, student_facts, teacher_facts)
    train = recipe.train
    form: dict[str, Any] = {
        "num_epochs": _num_epochs(recipe, steps_per_epoch),
        "train_data_loader": train_loader_form(recipe),
        "val_data_loader": _validation_loader(recipe),
    }
    if recipe.is_distillation:
        form["teacher"] = _box_model(train.teacher, hooks["teacher"], frozen=True)
        form["student"] = _box_model(train.student, hooks["student"], frozen=False)
    else:
        given = train.model or train.student
        form["model"] = _box_model(given, hooks["student"], frozen=False)
    form["optimizer"] = _optimizer(recipe)
    form["scheduler"] = _scheduler(recipe, num_steps)
    form["criterion"] = _criterion(recipe)
    form["pre_epoch_process"] = "distillens.pre_epoch"
    form["post_forward_process"] = "distillens.post_forward"
    dependencies = [dep.model_dump(exclude_none=True) for dep in recipe.dependencies]
    if not any(dep["name"] == "distillens_plugin" for dep in dependencies):
        dependencies.insert(0, {"name": "distillens_plugin"})
    models = recipe.models.model_dump(exclude_none=True)
    if not recipe.is_distillation:
        models = {"model": models[recipe.trained_role]}
    return {
        "dependencies": dependencies,
        "models": models,
        "datasets": recipe.datasets.model_dump(exclude_none=True),
        "train": form,
    }


def total_steps(recipe: Recipe, steps_per_epoch: int | None) -> int | None:
    """Optimiser steps of the whole run; None if they depend on an epoch of unknown length."""
    if recipe.train.num_steps is not None:
        return recipe.train.num_steps
    assert recipe.train.num_epochs is not None  # the schema
    return None if steps_per_epoch is None else recipe.train.num_epochs * steps_per_epoch


def _num_epochs(recipe: Recipe, steps_per_epoch: int | None) -> int | None:
    if recipe.train.num_epochs is not None:
        return recipe.train.num_epochs
    assert recipe.train.num_steps is not None  # the schema
    return None if steps_per_epoch is None else math.ceil(recipe.train.num_steps / steps_per_epoch)


def _hooks(
    recipe: Recipe, student: BlockFacts, teacher: BlockFacts | None
) -> dict[str, dict[str, list[str]]]:
    """Module paths per model, from all layers that are known; a run has measured the others."""
    layers: dict[str, list[Layer]] = {"student": [], "teacher": []}
    for name, paired in recipe.layer_terms():
        assert teacher is not None  # the schema: such a term compares with a teacher
        if paired.layers.to_be_measured:
            continue
        where = recipe.where(f"train.criterion.kwargs.sub_terms.{name}.criterion.kwargs.layers")
        given = paired.layers.model_dump(exclude_none=True)
        pairs = resolve_pairs(given, student.num_layers, teacher.num_layers, where=where)
        layers["student"] += [pair[0] for pair in pairs]
        layers["teacher"] += [pair[1] for pair in pairs]
    return {
        role: forward_hook_config(
            layers[role], _blocks(facts, layers[role], f"{recipe.path}: {role}")
        )
        for role, facts in (("student", student), ("teacher", teacher))
        if facts is not None
    }


def _blocks(facts: BlockFacts, layers: list[Layer], where: str) -> str:
    if facts.blocks is None and any(isinstance(layer, int) for layer in layers):
        raise DistillensError(
            f"{where}: found no list of blocks in the model, so layer numbers mean nothing; name "
            "module paths instead"
        )
    return facts.blocks or ""


def _box_model(
    given: BoxModel | None, hooks: dict[str, list[str]], *, frozen: bool
) -> dict[str, Any]:
    given = given or BoxModel()
    form: dict[str, Any] = {"forward_proc": given.forward_proc or "distillens.forward"}
    merged = {}
    for side in ("input", "output"):
        own = getattr(given.forward_hook, side) if given.forward_hook else []
        paths = list(dict.fromkeys([*hooks.get(side, []), *own]))
        if paths:
            merged[side] = paths
    if merged:
        form["forward_hook"] = merged
    if frozen or given.requires_grad is not None:
        form["requires_grad"] = False if given.requires_grad is None else given.requires_grad
    if given.frozen_modules:
        form["frozen_modules"] = list(given.frozen_modules)
    return form


def train_loader_form(recipe: Recipe) -> dict[str, Any]:
    """The full form's `train_data_loader` alone; the length of an epoch follows from it."""
    return _loader(recipe, recipe.train.train_data_loader, "train")


def _loader(recipe: Recipe, loader: DataLoader, dataset_id: str) -> dict[str, Any]:
    kwargs = loader.kwargs
    is_stream = dataset_id == "train" and recipe.datasets.train.streaming
    form: dict[str, Any] = {
        "dataset_id": dataset_id,
        "sampler": {"class_or_func": _sampler(STREAMED if is_stream else IN_ORDER)},
        "collate_fn": loader.collate_fn,
        "requires_supp": False,
        "kwargs": {"num_workers": kwargs.num_workers},
    }
    if kwargs.pin_memory:
        form["kwargs"]["pin_memory"] = True
    if loader.sampler is not None:
        form["sampler"] = {
            "class_or_func": _sampler(loader.sampler.class_or_func),
            "kwargs": dict(loader.sampler.kwargs),
        }
    batches: dict[str, Any] = {"batch_size": kwargs.batch_size}
    if kwargs.drop_last:
        batches["drop_last"] = True
    if loader.batch_sampler is not None:
        batches.update(loader.batch_sampler.kwargs)
        if loader.batch_sampler.key == "distillens.length_grouped":
            batches.setdefault("seed", recipe.seed)
        form["batch_sampler"] = {"key": loader.batch_sampler.key, "kwargs": batches}
    elif loader.sampler is None and not is_stream:
        grouped = {**batches, "seed": recipe.seed}
        form["batch_sampler"] = {"key": "distillens.length_grouped", "kwargs": grouped}
    else:
        form["kwargs"].update(batches)
    return form


def _validation_loader(recipe: Recipe) -> dict[str, Any]:
    """Like the derived training loader; {} without data, since a box cannot read null."""
    if recipe.datasets.validation is None:
        return {}
    train = recipe.train
    batch_size = (
        train.val_data_loader.kwargs.batch_size or train.train_data_loader.kwargs.batch_size
    )
    loader = DataLoader(kwargs=LoaderKwargs(batch_size=batch_size))
    return _loader(recipe, loader, "validation")


def _sampler(named: Any) -> Any:
    """The class that `!import_get` names; with --trust-recipe it is already a class."""
    if isinstance(named, ImportedName | str):
        module, _, name = (named if isinstance(named, str) else named.key).rpartition(".")
        return resolve(f"{module}:{name}")
    return named


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    optimizer = recipe.train.optimizer
    form: dict[str, Any] = {
        "key": optimizer.own_key or optimizer.key,
        "kwargs": copy.deepcopy(optimizer.kwargs),
    }
    if optimizer.own_key is not None:
        # torchdistill's own filter would give one list of parameters, without decay groups.
        form["filters_params"] = False
    if optimizer.max_grad_norm is not None:
        form["max_grad_norm"] = optimizer.max_grad_norm
    form["grad_accum_step"] = optimizer.grad_accum_step
    return form


def _scheduler(recipe: Recipe, num_steps: int | None) -> dict[str, Any]:
    scheduler = recipe.train.scheduler
    kwargs = dict(scheduler.kwargs)
    if scheduler.own_key is None:
        return {"key": scheduler.key, "kwargs": kwargs, "scheduling_step": 1}
    ratio = kwargs.pop("warmup_ratio", None)
    kwargs.setdefault("warmup_steps", 0)
    if ratio is not None:
        kwargs["warmup_steps"] = None if num_steps is None else scheduler.warmup_steps(num_steps)
    return {
        "key": scheduler.own_key,
        "kwargs": {"num_steps": num_steps, **kwargs},
        "scheduling_step": 1,
    }


def _criterion(recipe: Recipe) -> dict[str, Any]:
    criterion = recipe.train.criterion
    shares_walk = criterion.key == OWN_SUM
    terms = {}
    for name, term in criterion.kwargs.sub_terms.items():
        kwargs = copy.deepcopy(term.criterion.kwargs)
        own = TERMS.get(term.criterion.key)
        keys = own.parameters.model_fields if own is not None and own.parameters else {}
        walks = "chunk_rows" in keys
        if recipe.chunk_rows is not None and walks and not shares_walk:
            kwargs.setdefault("chunk_rows", recipe.chunk_rows)
        paired = term.criterion.paired()
        if paired is not None and paired.draws_maps:
            kwargs.setdefault("seed", recipe.seed)
        entry: dict[str, Any] = {"criterion": {"key": term.criterion.key, "kwargs": kwargs}}
        if term.criterion_wrapper is not None:
            entry["criterion_wrapper"] = term.criterion_wrapper
        terms[name] = {**entry, "weight": term.initial_weight}
    kwargs = {"sub_terms": terms}
    if criterion.kwargs.model_term is not None:
        kwargs["model_term"] = criterion.kwargs.model_term.model_dump()
    if shares_walk and recipe.chunk_rows is not None:
        kwargs["chunk_rows"] = recipe.chunk_rows
    return {
        "key": criterion.key,
        "kwargs": kwargs,
        "func2extract_model_loss": criterion.func2extract_model_loss,
    }
