"""Checks of the keys that say what a run reports, and where."""

from typing import TYPE_CHECKING

from distillens_plugin.recipe.schema.base import complain

if TYPE_CHECKING:
    from distillens_plugin.recipe.schema.recipe import Recipe


def check_reporting(recipe: "Recipe") -> None:
    """Refuses, inside a validator, keys that would have no effect."""
    if recipe.hub_private is not None and recipe.push_to_hub is None:
        complain("nothing is uploaded; add push_to_hub, or delete the key", at=("hub_private",))
    if not recipe.validation_terms:
        return
    missing = None
    if not recipe.is_distillation:
        missing = "there is no teacher to compare with"
    elif recipe.datasets.validation is None:
        missing = "there is no datasets.validation"
    elif recipe.teacher_cache is not None:
        missing = "a teacher_cache keeps the teacher's states of training rows alone"
    if missing is not None:
        complain(f"{missing}; delete the key", at=("validation_terms",))
