"""The architectures of a recipe's models, from configurations alone."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from distillens_plugin.costs.architecture import Architecture
from distillens_plugin.costs.families import known_architecture
from distillens_plugin.models.hub import Hub, UnreachableError, is_path
from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.config_files import check_config, read_config

Spec = TeacherSpec | StudentSpec


def recipe_architectures(recipe: Recipe, hub: Hub) -> tuple[Architecture, Architecture | None]:
    """Student (or the model of a run without a teacher) and teacher.

    Raises:
        DistillensError: a config is not at hand, or describes no causal model; names the key.
    """
    teacher = None
    if recipe.models.teacher_model is not None:
        teacher = _stored(recipe.models.teacher_model, recipe, "models.teacher_model", hub)
    return _student(recipe, teacher, hub), teacher


def _student(recipe: Recipe, teacher: Architecture | None, hub: Hub) -> Architecture:
    spec, key = recipe.models.trained, f"models.{recipe.trained_role}"
    init = spec.init
    if init is None:
        return _stored(spec, recipe, key, hub)
    if init.config is not None:
        where = recipe.where(f"{key}.init.config")
        try:
            fields = {**_tokenizer_size(recipe, init.config), **init.config}
            check_config(fields)
            return _of_fields(fields, trusted=False)
        except DistillensError as error:
            raise DistillensError(f"{where}: {error}") from error
    blocks = init.from_teacher_layers or []
    source = teacher
    if init.teacher is not None:
        source = _stored(spec.cut_source, recipe, f"{key}.init.teacher", hub)
    assert source is not None  # the schema: there is a teacher to cut from
    if blocks[-1] >= source.num_layers:
        raise DistillensError(
            f"{recipe.where(f'{key}.init.from_teacher_layers')}: found {blocks[-1]}, but the "
            f"teacher has blocks 0 to {source.num_layers - 1}"
        )
    return replace(source, num_layers=len(blocks))


def _tokenizer_size(recipe: Recipe, config: Mapping[str, object]) -> dict[str, int]:
    """A random model without vocab_size gets the tokenizer's, as when it is built."""
    if "vocab_size" in config:
        return {}
    from distillens_plugin.models.tokenizers import load_tokenizer

    return {"vocab_size": len(load_tokenizer(recipe.models.tokenizer_name))}


def _stored(spec: Spec, recipe: Recipe, key: str, hub: Hub) -> Architecture:
    """Of a folder, or of a name on the Hub."""
    name, where = spec.name_or_path, recipe.where(f"{key}.name_or_path")
    assert name is not None  # the schema: without one there is an init
    try:
        if os.path.isdir(name):
            return _of_fields(read_config(Path(name)), trusted=spec.trust_remote_code)
        if not is_path(name):
            fields = hub.config_fields(spec, where)
            if fields is None:
                fields = hub.config(spec, where).to_dict()
            check_config(fields)
            return _of_fields(fields, trusted=spec.trust_remote_code)
    except UnreachableError as error:
        raise DistillensError(
            f"{where}: the config of {name} is not here because {error}; a folder with its "
            f"config.json is enough: --set {key}.name_or_path=FOLDER"
        ) from error
    except DistillensError as error:
        text = str(error)
        raise error if text.startswith(where) else DistillensError(f"{where}: {text}") from error
    raise DistillensError(
        f"{where}: there is no folder {name}; expected one with a config.json, or a model's name "
        "on the Hub"
    )


def _of_fields(fields: Mapping[str, object], *, trusted: bool) -> Architecture:
    known = known_architecture(fields)
    if known is not None:
        return known
    from distillens_plugin.costs.counted import counted_architecture

    return counted_architecture(fields, trust_remote_code=trusted)
