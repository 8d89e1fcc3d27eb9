"""Checks of the keys that say what a run reports, and where."""

from distillens_plugin.recipe.schema.base import complain


def check_upload_keys(*, push_to_hub: str | None, hub_private: bool | None) -> None:
    """Refuses, inside a validator, a key that would have no effect."""
    if hub_private is not None and push_to_hub is None:
        complain("nothing is uploaded; add push_to_hub, or delete the key", at=("hub_private",))


def check_validation_terms(*, has_teacher: bool, has_validation: bool, has_cache: bool) -> None:
    """Refuses, inside a validator, `validation_terms: true` where nothing can be compared."""
    missing = None
    if not has_teacher:
        missing = "there is no teacher to compare with"
    elif not has_validation:
        missing = "there is no datasets.validation"
    elif has_cache:
        missing = "a teacher_cache keeps the teacher's states of training rows alone"
    if missing is not None:
        complain(f"{missing}; delete the key", at=("validation_terms",))
