"""A recipe as flat keys whose local files count by content, so that a study knows what changed."""

import hashlib
import os
from pathlib import Path
from typing import Any

from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.teacher_cache.fingerprint import engine_of, is_quantised, read_fingerprint
from eval_harness.shared.digest import digest

# Keys that name files and folders. Elsewhere a word without a slash, such as a template's name, is
# not a path, even if a file has that name.
_FILE_KEYS = (
    *("name_or_path", "tokenizer", "adapter", "path", "teacher"),
    *("teacher_translators", "metric_file"),
)
# Where things are stored, and how much is loaded, does not change results (a cache only repeats
# what its teacher computes, or names its engine below).
_LEFT_OUT = (
    "output_dir",
    *(f"teacher_cache.{key}" for key in ("path", "teacher", "max_gb")),
)


def resolved_keys(recipe: Recipe) -> dict[str, Any]:
    """The recipe's keys by dotted path, local files and folders as digests of their content."""
    return {key: value for key, value in leaves(recipe.to_plain()) if key not in _LEFT_OUT}


def other_engine(recipe: Recipe) -> dict[str, str] | None:
    """What filled a recipe's teacher cache, if it computes otherwise than a run's own teacher.

    Rounding apart, a cache repeats its teacher. A quantised engine, or one of another type, does
    not: runs that read such states are not those of another cache.
    """
    if recipe.teacher_cache is None or recipe.models.teacher_model is None:
        return None
    engine = engine_of(read_fingerprint(Path(recipe.teacher_cache.path)))
    dtype = recipe.models.teacher_model.dtype
    return engine if is_quantised(engine) or engine.get("dtype", dtype) != dtype else None


def leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """(dotted path, value) of everything that is not a mapping."""
    if isinstance(node, dict) and node:
        return [
            leaf
            for key, value in node.items()
            for leaf in leaves(value, f"{path}.{key}" if path else str(key))
        ]
    return [(path, with_digests(node, path.rpartition(".")[2]))]


def with_digests(value: object, key: str) -> Any:
    """The value of a key, with digests in place of existing paths."""
    if isinstance(value, list):
        return [with_digests(entry, key) for entry in value]
    if isinstance(value, str) and ("/" in value or key in _FILE_KEYS) and os.path.exists(value):
        return content_digest(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


_DIGESTS: dict[tuple[str, int, int], str] = {}


def content_digest(path: str) -> str:
    """Of a file, or of all files below a folder."""
    if os.path.isdir(path):
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        parts = [[str(file.relative_to(path)), content_digest(str(file))] for file in files]
        return f"content {digest(parts)}"
    status = os.stat(path)
    key = (path, status.st_mtime_ns, status.st_size)
    if key not in _DIGESTS:
        with open(path, "rb") as file:
            _DIGESTS[key] = f"content {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    return _DIGESTS[key]
