"""The fingerprint of a recipe's cache, from files alone."""

from collections.abc import Mapping
from pathlib import Path

import transformers

from distillens_plugin.data.dataset import InstructionDataset
from distillens_plugin.recipe.schema.models import TeacherSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.teacher_cache.checkpoint_hash import (
    hash_adapter,
    hash_checkpoint,
    hash_json,
)
from distillens_plugin.teacher_cache.fingerprint import TRAINING, Fingerprint, hash_rows
from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import read_json_object
from eval_harness.shared.model_folder.identity import model_folder


def make_fingerprint(
    recipe: Recipe,
    examples: InstructionDataset,
    states: tuple[str, ...],
    engine: Mapping[str, str] | None = None,
    *,
    weigh: bool = True,
) -> Fingerprint:
    """Of a recipe's teacher and training rows.

    Args:
        states: names of what is stored.
        engine: what computes the states; None: a run that fills its own cache.
        weigh: hash the teacher's weights too, which takes a minute for some 100 GB.
    Raises:
        DistillensError: the teacher's files are missing or damaged.
    """
    spec, settings = recipe.models.teacher_model, recipe.teacher_cache
    assert spec is not None  # the schema refuses a cache without a teacher
    assert settings is not None  # the callers have one
    folder = teacher_folder(spec)
    return Fingerprint(
        teacher=hash_checkpoint(folder) if weigh else "",
        adapter=hash_adapter(adapter_folder(spec)),
        config=hash_json(folder / "config.json"),
        rows=hash_rows(examples),
        template=recipe.datasets.train.template,
        states=states,
        dtype=settings.dtype,
        engine=transformers_identity(recipe, TRAINING) if engine is None else engine,
    )


def transformers_identity(
    recipe: Recipe, engine: str, *, dtype: str | None = None
) -> dict[str, str]:
    """What decides the states of a teacher that transformers runs.

    Args:
        engine: `training` or `hf`.
        dtype: of its weights; None: the recipe's.
    """
    spec = recipe.models.teacher_model
    assert spec is not None  # the schema refuses a cache without a teacher
    fields = read_json_object(teacher_folder(spec) / "config.json", max_bytes=10_000_000)
    quantised = fields.get("quantization_config")
    return {
        "engine": engine,
        "version": transformers.__version__,
        "dtype": dtype or spec.dtype,
        "precision": recipe.mixed_precision,
        "quantisation": str(quantised["quant_method"]) if isinstance(quantised, dict) else "none",
    }


def teacher_folder(spec: TeacherSpec) -> Path:
    """Where a teacher's files are; those of the Hub are fetched if need be.

    Raises:
        DistillensError: there are none.
    """
    return _found(spec.name_or_path, spec.revision, "models.teacher_model.name_or_path")


def adapter_folder(spec: TeacherSpec) -> Path | None:
    """Where a teacher's adapter is; None without one."""
    if spec.adapter is None:
        return None
    return _found(spec.adapter, None, "models.teacher_model.adapter")


def _found(name: str, revision: str | None, where: str) -> Path:
    try:
        return model_folder(name, revision)
    except DistillensError as error:
        raise DistillensError(f"{where}: {error}") from error
