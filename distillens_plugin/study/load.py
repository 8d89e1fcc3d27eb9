"""From a study file to a checked `Study`."""

import os
import re
from typing import Any

from distillens_plugin.recipe.composition import read_composed
from distillens_plugin.recipe.loading import Source
from distillens_plugin.recipe.packaged import STUDIES, find_recipe
from distillens_plugin.recipe.schema.base import KeyPath, checked
from distillens_plugin.recipe.schema.paths import fits, path_keys
from distillens_plugin.study.shadowed import refuse_shadowed
from distillens_plugin.study.spec import SHORT_METHOD, Study
from distillens_plugin.study.trust import refuse_study_code
from eval_harness.errors import DistillensError


def load_study(
    path: str | os.PathLike[str], output_dir: str | None = None, *, trust: bool = False
) -> Study:
    """Reads and checks a study; `base:` names studies that it starts from.

    Args:
        path: the YAML file, or a packaged name such as quickstart.
        output_dir: instead of the study's own.
        trust: let the study, its recipes and its models run code; see `recipe.load_recipe`.
    Raises:
        DistillensError: one line with file and line, key path, what was found and expected.
    """
    source = Source(find_recipe(path, within=STUDIES))
    composed = read_composed(source.name, trust=trust)
    data, source.origins = composed.data, composed.origins
    if output_dir is not None:
        data["output_dir"] = os.path.abspath(output_dir)
    _resolve(data, (), source, os.path.dirname(os.path.abspath(source.name)))
    study = checked(Study, data, source.describe)
    study._source = source
    study._trust = trust
    if not trust:
        refuse_study_code(study)
    files = [(study.recipe, study.where("recipe"))]
    files += [
        (fragment, study.where("methods", name, "fragments", index))
        for name, method in study.methods.items()
        for index, fragment in enumerate(method.fragments)
    ]
    for file, where in files:
        if not os.path.isfile(file):
            raise DistillensError(f"{where}: there is no file {file}; expected a YAML file")
    refuse_shadowed(study)
    return study


def _resolve(node: Any, path: KeyPath, source: Source, folder: str) -> None:
    """Path keys start from the file that gives them; other values only if they begin with ./"""
    entries = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(entries):
        here = (*path, key)
        if isinstance(value, dict | list):
            _resolve(value, here, source, folder)
        elif isinstance(value, str):
            origin = source.origins.get(here)
            if _is_file(here) or re.match(r"\.\.?(/|$)", value):
                start = origin.folder if origin is not None else folder
                node[key] = _readable(os.path.normpath(os.path.join(start, value)))


def _is_file(path: KeyPath) -> bool:
    """A key that names a file by its type, or a fragment in a method's short form."""
    if isinstance(path[-1], int) and fits(path[:-1], SHORT_METHOD):
        return True
    return any(fits(path, pattern) for pattern, kind in path_keys(Study) if kind.always)


def _readable(path: str) -> str:
    """Relative to the working folder if it is inside: shorter lines, and commands to copy."""
    relative = os.path.relpath(path)
    if relative.startswith("-"):
        return os.path.join(".", relative)  # or a command would take it for a flag
    return path if relative.startswith("..") else relative
