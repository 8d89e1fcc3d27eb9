"""A study's short names for recipe keys, as the keys themselves."""

from collections.abc import Mapping
from typing import Any

from distillens_plugin.study.spec import SHORT_KEYS

Settings = dict[str, Any]


def expand(values: Mapping[str, Any]) -> Settings:
    """Short names as recipe keys; a number of steps takes the place of epochs."""
    expanded: Settings = {}
    for key, value in values.items():
        expanded[SHORT_KEYS.get(key, key)] = value
        if key == "steps":
            expanded["train.num_epochs"] = None
    return expanded
