"""The modules that a recipe lists under `dependencies`: which of them need trust, and their import.

They are imported before the recipe's keys are checked, as they may register names used there.
"""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter, ValidationError

from distillens_plugin.recipe.schema.base import KeyPath
from distillens_plugin.recipe.schema.recipe import Dependency, Recipe, dependency_entries
from distillens_plugin.recipe.yaml_tags import is_sampler
from distillens_plugin.tables.makers import resolve
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import RECIPE_FLAG, refuse

_OURS = re.compile(r"distillens_plugin|torchdistill(\.\w+)*")


def take_in_dependencies(
    data: Mapping[str, Any], where: Callable[[KeyPath], str], *, trust: bool
) -> None:
    """Imports what a trusted recipe depends on; refuses what an untrusted one may not import.

    distillens_plugin and torchdistill's modules need no trust. The two packages themselves are
    imported later, by the run: their names are known, and importing them takes seconds.

    Args:
        data: the recipe before it is checked; the schema refuses malformed entries.
        where: what errors about a key begin with.
    Raises:
        DistillensError: names the key and the module, whatever its import raised.
    """
    entries = dependency_entries(data.get("dependencies"))
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        try:
            dependency = TypeAdapter(Dependency).validate_python(entry)
        except ValidationError:
            continue
        is_ours = dependency.package is None and _OURS.fullmatch(dependency.name) is not None
        if is_ours and "." not in dependency.name:
            continue
        at = where(("dependencies", index))
        if not trust and not is_ours:
            effect = "is imported and so runs (distillens_plugin and torchdistill's need no trust)"
            refuse(at, f"the module {dependency.name!r}", effect, RECIPE_FLAG)
        try:
            import_module(dependency.name, dependency.package)
        except ImportError as error:
            raise DistillensError(
                f"{at}: {error}; install it, put its folder on PYTHONPATH, or delete it"
            ) from error
        # The module's own code runs here: it may raise anything, or end the interpreter in silence.
        except (Exception, SystemExit) as error:
            raise DistillensError(
                f"{at}: the module {dependency.name!r} cannot be imported ({type(error).__name__}: "
                f"{error}); correct it, or delete it"
            ) from error


def check_named_sampler(recipe: Recipe, where: Callable[[KeyPath], str]) -> None:
    """Imports the sampler that a trusted recipe names, if it is not torch's.

    Raises:
        DistillensError: there is no such module or name.
    """
    sampler = recipe.train.train_data_loader.sampler
    named = sampler.class_or_func if sampler is not None else None
    if not isinstance(named, str) or is_sampler(named):
        return
    at = where(("train", "train_data_loader", "sampler", "class_or_func"))
    module, _, name = named.rpartition(".")
    if not module:
        raise DistillensError(f"{at}: found {named!r}, expected a path such as package.module.Name")
    try:
        resolve(f"{module}:{name}")
    except (ImportError, AttributeError) as error:
        raise DistillensError(f"{at}: {error}; expected package.module.Name") from error
