"""A recipe whose data and configs are here, and what `--validate` says of it."""

import json
from pathlib import Path

import pytest
from recipe_text import DISTILLATION, FINE_TUNING, write_recipe

from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError

CONFIGS = Path(__file__).parents[1] / "configs"
ROW = {"instruction": "Add 1 and 2.", "input": "", "output": "3"}


def local_recipe(folder: Path, *overrides: str, text: str = DISTILLATION) -> Recipe:
    """A recipe whose data and configs are here: gpt2 from the 48-layer teacher."""
    data = folder / "data.jsonl"
    if not data.exists():
        data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    given = [
        f"models.teacher_model.name_or_path={CONFIGS / 'teacher-gpt2-1.5B'}",
        f"models.student_model.name_or_path={CONFIGS / 'gpt2'}",
    ]
    if text is FINE_TUNING:
        given = [f"models.model.name_or_path={CONFIGS / 'gpt2'}"]
    given += [f"datasets.train.path={data}", f"output_dir={folder / 'run'}"]
    return load_recipe(write_recipe(folder, text), [*given, *overrides])


def refusal(recipe: Recipe) -> str:
    with pytest.raises(DistillensError) as caught:
        validate_without_weights(recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)
