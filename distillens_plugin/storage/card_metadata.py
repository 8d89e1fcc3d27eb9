"""The front matter of a model card, as the Hub reads it, by huggingface_hub."""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from distillens_plugin.models.hub import is_path
from distillens_plugin.recipe.schema.recipe import Recipe

_TAGS = ["distillens", "knowledge-distillation"]
# The Hub's own names of metrics; a term keeps its name in the recipe.
_METRICS = {
    "validation_loss": ("loss", "Validation loss"),
    "rougeL": ("rouge", "ROUGE-L"),
    "rougeL_unicode": ("rougeL_unicode", "ROUGE-L of Unicode words"),
}
_TERM = "val/"
_LICENSE = ("license", "license_name", "license_link")


def card_metadata(recipe: Recipe, scores: Mapping[str, float], *, title: str) -> str:
    """YAML: library, tags, base model, data sets, license and results.

    Only what the Hub can look up is named: models and data sets that lie in folders here have no
    name there. The license is that of the base model, if its card is here.

    Args:
        scores: of the validation of the weights that are saved; empty if they have none.
    """
    base = base_model(recipe)
    # A model that is cut from another, or trained further, stays under its license.
    license_keys = known_license(base) if base is not None else {}
    train = recipe.datasets.train.path
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(_TAGS),
        base_model=base if base is not None and _is_on_hub(base) else None,
        datasets=[train] if _is_on_hub(train) else None,
        model_name=title,
        eval_results=_results(recipe, scores) or None,
        license=license_keys.get("license"),
        license_name=license_keys.get("license_name"),
        license_link=license_keys.get("license_link"),
    )
    return data.to_yaml()


def base_model(recipe: Recipe) -> str | None:
    """The name of the model whose weights the student started from; None if from random ones."""
    student, teacher = recipe.models.trained, recipe.models.teacher_model
    if student.name_or_path is not None:
        return student.name_or_path
    init = student.init
    if init is None or init.from_teacher_layers is None:
        return None
    return init.teacher or (teacher.name_or_path if teacher is not None else None)


def known_license(name: str) -> dict[str, str]:
    """What a model's card in its folder, or in the Hub's cache, says of its license."""
    try:
        card = Path(name) / "README.md" if os.path.isdir(name) else _cached_card(name)
        found = metadata_load(card) if card is not None and card.is_file() else None
    except (OSError, ValueError, yaml.YAMLError):
        # Somebody else's card may hold anything; without a license this one says nothing.
        return {}
    given = found or {}
    return {key: str(given[key]) for key in _LICENSE if isinstance(given.get(key), str)}


def _cached_card(name: str) -> Path | None:
    try:
        found = try_to_load_from_cache(name, "README.md")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _is_on_hub(name: str) -> bool:
    """Whether a name of the recipe stands for a repository, not for a file or folder here."""
    return not is_path(name) and not os.path.exists(name)


def _results(recipe: Recipe, scores: Mapping[str, float]) -> list[EvalResult]:
    spec = recipe.datasets.validation
    if spec is None:
        return []
    dataset = spec.path if _is_on_hub(spec.path) else Path(spec.path).stem
    results = []
    for name, value in scores.items():
        kind, shown = _METRICS.get(name, (name.removeprefix(_TERM),) * 2)
        if name not in _METRICS and not name.startswith(_TERM):
            continue
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split="validation",
                metric_type=kind,
                metric_name=shown,
                metric_value=round(value, 6),
            )
        )
    return results
