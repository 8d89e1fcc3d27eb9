"""Recipes made of others: `base:` names what a recipe starts from, and its own keys change that.

Mappings are merged key by key, lists and values are replaced, and null removes a key (the schema
reads it as not given). So a method is a fragment with a few keys (recipes/methods/), and no recipe
is a copy of another.
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distillens_plugin.recipe.schema.base import show
from distillens_plugin.recipe.yaml_reader import KeyPath, Place, read_yaml_file
from eval_harness.errors import DistillensError

BASE = "base"
# A folder belongs to one run: a recipe does not write into the folder of its base.
_NOT_INHERITED = "output_dir"
_MAX_FILES = 50


@dataclass(frozen=True)
class Origin:
    """The file that gave a key its value, and the place in it."""

    file: str
    place: Place

    @property
    def folder(self) -> str:
        """The folder that ./ and ../ in the value start from."""
        return os.path.dirname(os.path.abspath(self.file))


@dataclass
class Composed:
    """A recipe with its bases merged in.

    Attributes:
        data: without `base:`.
        origins: of every key and list entry.
    """

    data: dict[str, Any]
    origins: dict[KeyPath, Origin]


def read_composed(path: str, *, trust: bool = False) -> Composed:
    """Reads a recipe and everything it is based on.

    Args:
        path: a recipe, named in errors as given; paths of its bases start at its folder.
        trust: as for `read_yaml_file`.
    Raises:
        DistillensError: as `read_yaml_file`; `base` is not a file name or a list of them, a file is
            missing, or a recipe is its own base.
    """
    return _Reader(trust).read(path, ())


def merge(below: Composed, above: Composed) -> Composed:
    """`above` over `below`: mappings key by key, all else (null too) replaced."""
    origins = dict(below.origins)
    data = copy.deepcopy(below.data)
    _merge(data, above.data, (), origins, above.origins)
    return Composed(data, origins)


def _merge(
    target: dict[str, Any],
    changes: dict[str, Any],
    path: KeyPath,
    origins: dict[KeyPath, Origin],
    changed: dict[KeyPath, Origin],
) -> None:
    for key, value in changes.items():
        here = (*path, key)
        both = isinstance(value, dict) and isinstance(target.get(key), dict)
        if not both and key in target:
            for old in _paths_of(target[key], here):
                origins.pop(old, None)
        if isinstance(value, dict):
            if here in changed:
                origins[here] = changed[here]
            inner = target[key] if both else {}
            target[key] = inner
            _merge(inner, value, here, origins, changed)
            continue
        target[key] = copy.deepcopy(value)
        origins.update({at: changed[at] for at in _paths_of(value, here) if at in changed})


def _paths_of(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value, and those of everything in it."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths_of(inner, (*path, key))


class _Reader:
    """Reads each file once, however often it is named: few files could mean millions of reads."""

    def __init__(self, trust: bool) -> None:
        self._trust = trust
        self._done: dict[str, Composed] = {}

    def read(self, path: str, chain: tuple[str, ...]) -> Composed:
        """A recipe with its bases merged in.

        Args:
            chain: the files whose bases lead to it.
        """
        real = os.path.realpath(path)
        if real not in self._done:
            if len(self._done) + len(chain) >= _MAX_FILES:
                raise DistillensError(
                    f"{path}: the recipe is made of more than {_MAX_FILES} files; expected a few "
                    "bases"
                )
            self._done[real] = self._compose(path, (*chain, real))
        return self._done[real]

    def _compose(self, path: str, chain: tuple[str, ...]) -> Composed:
        data, places = read_yaml_file(path, trust=self._trust)
        own = Composed(data, {at: Origin(path, place) for at, place in places.items()})
        result = Composed({}, {})
        for index, name in enumerate(_bases(own, path)):
            base = os.path.normpath(os.path.join(os.path.dirname(path), name))
            where = _where(own, path, index)
            if os.path.realpath(base) in chain:
                raise DistillensError(
                    f"{where}: {name} is the recipe itself or starts from it; a recipe "
                    "cannot be its own base"
                )
            if not os.path.isfile(base):
                raise DistillensError(
                    f"{where}: there is no file {base}; expected a recipe, relative to the folder "
                    f"of {path}"
                )
            result = merge(result, self.read(base, chain))
            result.data.pop(_NOT_INHERITED, None)
            result.origins.pop((_NOT_INHERITED,), None)
        own.data.pop(BASE, None)
        own.origins = {at: origin for at, origin in own.origins.items() if at[:1] != (BASE,)}
        return merge(result, own)


def _bases(own: Composed, path: str) -> list[str]:
    given = own.data.get(BASE)
    names = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(name, str) and name for name in names):
        raise DistillensError(
            f"{_where(own, path, 0)}: found {show(given)}, expected a recipe's file name such as "
            "gpt2.yaml, or a list of them"
        )
    return names


def _where(own: Composed, path: str, index: int) -> str:
    origin = own.origins.get((BASE, index)) or own.origins[(BASE,)]
    return f"{path}:{origin.place.key.line}: base"
