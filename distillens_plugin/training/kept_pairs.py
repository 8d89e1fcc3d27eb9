"""Layer pairs that were measured (`by: divergence`): kept with a run, and used again on --resume.

A run's recipe.yaml holds the pairs under `layers.measured`, so that it trains with them wherever it
is started. layer_pairs.json holds what they were chosen from: the matrix, and what it was measured
on. A state of the run counts more than both: its steps were taken with the pairs of its recipe.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from distillens_plugin.experiment.layer_choice import Record
from distillens_plugin.recipe.schema.layers import unmeasured
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.fingerprint import Fingerprint

Pairs = dict[str, dict[str, list[int]]]


def without_new_pairs(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run without the pairs that it measured itself: as it was given.

    Args:
        before: as recipe.yaml of the run has it.
        now: what it is compared with; pairs that this names too stay.
    """
    found = deepcopy(before)
    given = _layers_by_term(now)
    for name, layers in _layers_by_term(found).items():
        if "measured" not in given.get(name, {}):
            layers.pop("measured", None)
    return found


def measured_pairs(recipe: Mapping[str, Any]) -> Pairs:
    """Of a recipe in plain form: the pairs under `layers.measured`, by term."""
    found = {name: layers.get("measured") for name, layers in _layers_by_term(recipe).items()}
    return {name: pairs for name, pairs in found.items() if pairs is not None}


def pairs_to_reuse(
    recipe: Recipe, folder: Path, of_state: Pairs | None, fingerprint: Fingerprint
) -> tuple[Pairs, list[str]]:
    """The pairs that an interrupted run measured for the terms that do not name theirs.

    Args:
        of_state: of the state that is resumed; None if there is none, and layer_pairs.json counts
            if all that it was measured on is as it was.
    Returns:
        The pairs, none of them if there is a difference; and lines for people.
    """
    names, path = _names(recipe), folder / run_folder.PAIRS
    if of_state is not None:
        return {name: of_state[name] for name in names if name in of_state}, []
    if not names or not path.exists():
        return {}, []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        basis = content["measured_on"]
        pairs = {name: content["terms"][name]["measured"] for name in names}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return {}, [f"{path}: cannot be read ({type(error).__name__}); measuring the layers again"]
    changed = _change(basis, measured_on(recipe, names, fingerprint))
    if changed is not None:
        return {}, [f"{path}: {changed}; measuring the layers again"]
    return pairs, [f"{', '.join(names)}: the layers were measured when the run began ({path})"]


def kept_text(recipe: Recipe, folder: Path, fingerprint: Fingerprint) -> str | None:
    """layer_pairs.json as it is, where it is about the very pairs of this recipe; else None.

    The same pairs of other models, rows or settings have another matrix.
    """
    pairs = measured_pairs(recipe.to_plain())
    try:
        text = (folder / run_folder.PAIRS).read_text(encoding="utf-8")
        content = json.loads(text)
        terms, basis = content["terms"], content["measured_on"]
        same = bool(pairs) and {name: terms[name]["measured"] for name in terms} == pairs
        same = same and _change(basis, measured_on(recipe, list(terms), fingerprint)) is None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return text if same else None


def encode_pairs(recipe: Recipe, records: Mapping[str, Record], fingerprint: Fingerprint) -> str:
    """The text of layer_pairs.json: `terms` by name, and `measured_on`, by content.

    Args:
        records: of `experiment.layer_choice.measured`.
    """
    content = {
        "terms": dict(records),
        "measured_on": measured_on(recipe, list(records), fingerprint),
    }
    return json.dumps(content, indent=1) + "\n"


def measured_on(recipe: Recipe, names: list[str], fingerprint: Fingerprint) -> dict[str, Any]:
    """What decides the pairs of these terms: rows, files, and the settings of models and terms."""
    layers = _layers_by_term(recipe.to_plain())
    terms = recipe.to_plain()["train"]["criterion"]["kwargs"]["sub_terms"]
    settings: dict[str, Any] = {"seed": recipe.seed}
    for name in names:
        kwargs = {**terms[name]["criterion"]["kwargs"]}
        kwargs["layers"] = {k: v for k, v in layers[name].items() if k != "measured"}
        settings[name] = kwargs
    rows = fingerprint["data"]["datasets.train"]
    return {
        "datasets.train": rows and rows["in_order"],
        **fingerprint["files"],
        "settings": json.loads(json.dumps(settings, default=str)),
    }


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    for key, value in now.items():
        old = before.get(key)
        # A commit that was unknown offline says nothing.
        if old != value and (key == "settings" or None not in (old, value)):
            if key == "datasets.train":
                return "datasets.train has other rows than those that were measured"
            return f"{key} was {old} and is {value}"
    return None


def _names(recipe: Recipe) -> list[str]:
    return unmeasured(recipe.layer_terms())


def _layers_by_term(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The `layers` of each term of a recipe in plain form, as they lie in it."""
    try:
        terms = recipe["train"]["criterion"]["kwargs"]["sub_terms"].items()
    except (KeyError, AttributeError, TypeError):
        return {}
    found = {}
    for name, term in terms:
        kwargs = ((term or {}).get("criterion") or {}).get("kwargs") or {}
        if isinstance(kwargs.get("layers"), dict):
            found[name] = kwargs["layers"]
    return found
