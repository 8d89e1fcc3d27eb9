"""Reading a recipe's YAML (a study's, a fragment's, the value of --set) with or without trust."""

from typing import Any

from distillens_plugin.recipe.yaml_tags import ImportedName, RecipeLoader, trusted_loader
from eval_harness.shared.files import strict_yaml
from eval_harness.shared.files.strict_yaml import KeyPath, Mark, Place

__all__ = ["ImportedName", "KeyPath", "Mark", "Place", "parse_yaml", "read_yaml_file"]


def read_yaml_file(
    path: str, *, trust: bool = False
) -> tuple[dict[str, Any], dict[KeyPath, Place]]:
    """The mapping in a recipe file, and the place of each of its keys and entries.

    Args:
        path: named in errors as given.
        trust: torchdistill's other YAML tags work too, and can run any code.
    Raises:
        DistillensError: as `strict_yaml.read_mapping`, or a tag needs trust.
    """
    loader = trusted_loader() if trust else RecipeLoader
    keys = "models: and train:"
    return strict_yaml.read_mapping(path, what="recipe", keys=keys, loader=loader)


def parse_yaml(text: str, name: str, *, trust: bool = False) -> tuple[Any, dict[KeyPath, Place]]:
    """One YAML document as Python values, with the place of each key and entry.

    Args:
        name: file name (or `--set ...`) at the start of errors.
    Raises:
        DistillensError: as `read_yaml_file`.
    """
    loader = trusted_loader() if trust else RecipeLoader
    return strict_yaml.parse_yaml(text, name, what="recipe", loader=loader)
