"""The keys that a study sets: its short names for recipe keys, and what cannot be a key."""

import re
from collections.abc import Mapping
from typing import Any

from distillens_plugin.recipe.schema.base import complain, did_you_mean
from distillens_plugin.recipe.schema.recipe import Recipe

# Short names for the recipe keys that studies change most.
SHORT_KEYS = {
    "lr": "train.optimizer.kwargs.lr",
    "steps": "train.num_steps",
    "kd": "train.criterion.kwargs.sub_terms.kd.criterion.kwargs.divergence",
    "lens_weight": "train.criterion.kwargs.sub_terms.lens.weight",
}
Settings = dict[str, Any]
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The study gives these to each run itself.
_OWN_KEYS = ("seed", "output_dir", "base")


def expand(values: Mapping[str, Any]) -> Settings:
    """Short names as recipe keys; a number of steps takes the place of epochs."""
    expanded: Settings = {}
    for key, value in values.items():
        expanded[SHORT_KEYS.get(key, key)] = value
        if key == "steps":
            expanded["train.num_epochs"] = None
    return expanded


def check_keys(keys: dict[str, Any]) -> dict[str, Any]:
    """Refuses what cannot be a recipe key; deeper mistakes are found when the recipe is read."""
    known = [*SHORT_KEYS, *(name for name in Recipe.model_fields if name not in _OWN_KEYS)]
    for key in keys:
        first = key.split(".")[0]
        if first in _OWN_KEYS:
            complain("the study sets this for each run; delete it", at=(key,))
        if first not in known or ("." in key and key in SHORT_KEYS):
            hint = did_you_mean(first, known) or f"expected one of {', '.join(known)}"
            complain(f"unknown key; {hint}", at=(key,))
    return keys


def check_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Refuses keys that a command line would read as something else."""
    for key in values:
        if not _ARGUMENT.fullmatch(key):
            complain("found a key that is not an argument name, expected a-z, 0-9, _", at=(key,))
        if key == "pretrained":
            complain("the study gives each run its own model; delete it", at=(key,))
    return values
