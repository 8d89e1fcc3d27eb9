"""Which keys of a section are paths, from the types of its fields (`PathKey`)."""

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from distillens_plugin.recipe.schema.base import KeyPath, PathKey, Strict

# In a pattern: any key of a mapping, any entry of a list.
ANY = "*"


def path_keys(model: type[BaseModel], at: KeyPath = ()) -> Iterator[tuple[KeyPath, PathKey]]:
    """The pattern of each path below a section, and its mark.

    Args:
        at: the section's own path.
    """
    inner = model.inner_models() if issubclass(model, Strict) else {}
    for name, field in model.model_fields.items():
        here = (*at, name)
        yield from _of_type(field.annotation, field.metadata, here)
        for checker in inner.get(name, ()):
            yield from path_keys(checker, here)


def _of_type(
    annotation: Any, metadata: typing.Sequence[object], at: KeyPath
) -> Iterator[tuple[KeyPath, PathKey]]:
    yield from ((at, marked) for marked in metadata if isinstance(marked, PathKey))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _of_type(arguments[0], arguments[1:], at)
    elif origin in (types.UnionType, typing.Union):
        for part in arguments:
            yield from _of_type(part, (), at)
    elif origin in (list, dict):
        yield from _of_type(arguments[-1], (), (*at, ANY))
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from path_keys(annotation, at)


def fits(path: KeyPath, pattern: KeyPath) -> bool:
    """Whether a pattern matches this path."""
    pairs = zip(path, pattern, strict=False)
    return len(path) == len(pattern) and all(part in (ANY, key) for key, part in pairs)


def matching(node: Any, pattern: KeyPath, done: KeyPath = ()) -> list[KeyPath]:
    """Paths of the strings in plain data that a pattern matches."""
    if not pattern:
        return [done] if isinstance(node, str) else []
    if not isinstance(node, dict | list):
        return []
    if pattern[0] == ANY:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    else:
        keys = [pattern[0]] if isinstance(node, dict) and pattern[0] in node else []
    return [path for key in keys for path in matching(node[key], pattern[1:], (*done, key))]
