"""Makers by dotted path, so that a table can name something that loads torch without loading it."""

from importlib import import_module
from typing import Any


def resolve(maker: str) -> Any:
    """What `package.module:Name` or `package.module:Class.method` names; imports the module.

    Raises:
        ImportError, AttributeError: there is no such module or name.
    """
    module, _, names = maker.partition(":")
    found: Any = import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def path_of(maker: object) -> str:
    """`package.module:Name` of a class or function, or the path itself."""
    if isinstance(maker, str):
        return maker
    module, name = getattr(maker, "__module__", "?"), getattr(maker, "__qualname__", repr(maker))
    return f"{module}:{name}"
