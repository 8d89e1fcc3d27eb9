"""From a recipe file and --set overrides to a checked `Recipe`; loads no torch."""

import copy
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillens_plugin.recipe.composition import BASE, Composed, Origin, merge, read_composed
from distillens_plugin.recipe.dependencies import check_named_sampler, take_in_dependencies
from distillens_plugin.recipe.packaged import find_recipe
from distillens_plugin.recipe.revisions import refuse_revisions_of_folders
from distillens_plugin.recipe.schema.base import checked, did_you_mean, show
from distillens_plugin.recipe.schema.paths import matching, path_keys
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.trust import refuse_recipe_code
from distillens_plugin.recipe.yaml_dumper import check_can_be_kept
from distillens_plugin.recipe.yaml_reader import KeyPath, parse_yaml
from eval_harness.errors import DistillensError

_MAX_SHOWN = 120


@dataclass(frozen=True)
class Override:
    """One `--set a.b=c`."""

    text: str
    path: KeyPath
    value: Any


@dataclass
class Source:
    """Where each value of a recipe came from.

    Attributes:
        name: of the recipe file, as given.
        origins: of each key: file and place; a recipe may consist of several files.
        fragments: merged over it, as given.
    """

    name: str
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    overrides: list[Override] = field(default_factory=list)
    fragments: list[str] = field(default_factory=list)

    def override_of(self, path: KeyPath) -> Override | None:
        """The last --set that gave this key its value: at the key or above it."""
        for override in reversed(self.overrides):
            if path[: len(override.path)] == override.path:
                return override
        return None

    def describe(self, path: KeyPath) -> str:
        """`recipes/gpt2.yaml:23: train.criterion.key`; names a --set that has an effect, too."""
        dotted = ".".join(map(_shown, path))
        override = self.override_of(path)
        if override is not None:
            return f"--set {_shown(override.text)}: {dotted}"
        within = [o for o in self.overrides if o.path[: len(path)] == path]
        where = self.name
        for length in range(len(path), 0, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                where = f"{origin.file}:{origin.place.key.line}"
                break
        if within:
            where += f" with --set {_shown(within[-1].text)}"
        return f"{where}: {dotted}" if dotted else where

    def locate(self, dotted: str) -> str:
        """`describe` for a dotted path, in which a number is a list's entry."""
        return self.describe(tuple(map(_part, dotted.split("."))))


def load_recipe(
    path: str | os.PathLike[str],
    overrides: Iterable[str] = (),
    trust: bool = False,
    *,
    fragments: Iterable[str | os.PathLike[str]] = (),
) -> Recipe:
    """Reads, composes, overrides and checks a recipe.

    Args:
        path: the YAML file, named in errors as given, or a packaged name such as quickstart. Its
            `base:` is read first.
        fragments: files merged over it, in order, such as recipes/methods/sft.yaml; their names
            become part of the output folder's.
        overrides: `a.b=c` texts; c is read as YAML, a number in the path picks a list's entry.
        trust: allow whatever can run code: torchdistill's other YAML tags, any module under
            dependencies, and trust_remote_code.

    Raises:
        DistillensError: one line with file and line (or the --set text), key path, what was found
            and what is expected.
    """
    fragments = list(fragments)
    source = Source(find_recipe(path), fragments=[os.fspath(each) for each in fragments])
    files = [find_recipe(fragment) for fragment in fragments]
    composed, default_output = _compose(source.name, files, trust)
    data, source.origins = composed.data, composed.origins
    for text in overrides:
        override = parse_override(text, trust=trust)
        if override.path[0] == BASE:
            raise DistillensError(
                f"--set {_shown(text)}: a recipe's base can only be set in its file; merge other "
                "files over it with --with FILE"
            )
        _apply(data, override, source.name)
        source.overrides.append(override)
    _resolve_paths(data, source)
    take_in_dependencies(data, source.describe, trust=trust)
    if trust:
        check_can_be_kept(data, source.describe)
    plain = copy.deepcopy(data)
    recipe = checked(Recipe, data, source.describe)
    if trust:
        check_named_sampler(recipe, source.describe)
    else:
        refuse_recipe_code(recipe, source.describe)
    refuse_revisions_of_folders(recipe.models, source.describe)
    if recipe.output_dir is None:
        recipe.output_dir = default_output
    recipe._source = source
    recipe._plain = plain
    return recipe


def as_typed(recipe: Recipe) -> str:
    """A recipe's name with the --with and --set that changed it, to be used in another command."""
    source = recipe._source
    if not isinstance(source, Source):
        return recipe.path
    words = [source.name]
    for fragment in source.fragments:
        words += ["--with", fragment]
    for override in source.overrides:
        words += ["--set", override.text]
    return shlex.join(words)


def _compose(name: str, fragments: list[str], trust: bool) -> tuple[Composed, str]:
    """The recipe with fragments merged over it, and its default output folder."""
    composed = read_composed(name, trust=trust)
    default = os.path.join("runs", Path(name).stem)
    for fragment in fragments:
        given = composed.data.get("output_dir")
        origin = composed.origins.get(("output_dir",))
        # Anything but a text stays, for the schema to refuse.
        if given is None or isinstance(given, str):
            composed.data.pop("output_dir", None)
            composed.origins.pop(("output_dir",), None)
        if isinstance(given, str) and origin is not None:
            default = _absolute(given, origin.folder)
        default = f"{default}-{Path(fragment).stem}"
        composed = merge(composed, read_composed(fragment, trust=trust))
    return composed, default


def parse_override(text: str, *, trust: bool = False) -> Override:
    """Reads `a.b.0.c=value`, the value as YAML (nothing after the = is null).

    Raises:
        DistillensError: no =, an empty part of the path, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise DistillensError(
            f"--set {_shown(text)}: found no key and value, expected a path, = and a value, such "
            "as train.num_epochs=2"
        )
    path = tuple(map(_part, parts))
    data, _ = parse_yaml(value, f"--set {_shown(text)}: value", trust=trust)
    return Override(text, path, data)


def _apply(data: Any, override: Override, name: str) -> None:
    """Applies an override; missing keys are created, for the schema to check."""
    node = data
    for depth, part in enumerate(override.path):
        last = depth == len(override.path) - 1
        above = ".".join(map(_shown, override.path[:depth])) or "the recipe"
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                entries = f"0 to {len(node) - 1}" if node else "no entries yet"
                raise DistillensError(
                    f"--set {_shown(override.text)}: {above} in {name} is a list with the "
                    f"entries {entries}; found {show(part)}"
                )
            key: Any = part
        elif isinstance(node, dict):
            key = _existing_key(node, part)
        else:
            raise DistillensError(
                f"--set {_shown(override.text)}: {above} in {name} is {show(node)}, which has no "
                f"keys below it; found {show(part)}" + _near(data, override.path, depth)
            )
        if last:
            node[key] = copy.deepcopy(override.value)
        else:
            if isinstance(node, dict) and node.get(key) is None:
                node[key] = {}
            node = node[key]


def _part(text: str) -> str | int:
    """A part of a dotted key path: up to nine digits number a list's entry."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text


def _shown(part: str | int) -> str:
    """A part of a path, or the text of an override, as an error names it: short and printable."""
    text = str(part)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _existing_key(node: dict[Any, Any], part: str | int) -> Any:
    # Digits may also be a mapping's key, as text or as a number.
    return next((key for key in (part, str(part)) if key in node), str(part))


def _near(data: Any, path: KeyPath, depth: int) -> str:
    parent: Any = data
    for part in path[: depth - 1]:
        parent = parent[part]
    keys = [str(key) for key in parent] if isinstance(parent, dict) else []
    hint = did_you_mean(str(path[depth - 1]), [key for key in keys if key != path[depth - 1]])
    return f"; {hint}" if hint else ""


def _resolve_paths(data: dict[str, Any], source: Source) -> None:
    """Makes ./ and ../ absolute: from the folder of the file with the key, or for --set from the
    working folder.
    """
    folder = os.path.dirname(os.path.abspath(source.name))
    for pattern, _ in path_keys(Recipe):
        for path in matching(data, pattern):
            parent: Any = data
            for part in path[:-1]:
                parent = parent[part]
            origin = source.origins.get(path)
            base = os.getcwd() if source.override_of(path) else origin.folder if origin else folder
            parent[path[-1]] = _absolute(parent[path[-1]], base)


def _absolute(value: str, folder: str) -> str:
    if re.match(r"\.\.?(/|$)", value):
        return os.path.normpath(os.path.join(folder, value))
    return os.path.expanduser(value) if value.startswith("~/") else value
