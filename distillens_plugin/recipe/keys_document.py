"""docs/recipe_keys.md, made from the schema: `python -m distillens_plugin.recipe.keys_document`."""

import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from distillens_plugin.divergences.table import DIVERGENCES, divergence_entry
from distillens_plugin.recipe.schema.base import PathKey, Within
from distillens_plugin.recipe.schema.names import KINDS, OPTIMIZER, SCHEDULER, Kind
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.schema.terms import TERMS
from eval_harness.shared.files.atomic import write_text

DOCUMENT = Path("docs") / "recipe_keys.md"

_INTRO = """\
# Recipe keys

Made from the schema by `python -m distillens_plugin.recipe.keys_document`; do not edit by hand.

A recipe is YAML, read by the rules of YAML 1.2: `1e-4` is a number, and only `true` and `false` are
booleans. A key that is not listed here is refused; `null` is the same as leaving a key out. Any key
can be set from the command line: `--set train.optimizer.kwargs.lr=1e-4`; a number in the path picks
a list's entry. Paths that start with `./` or `../` are relative to the recipe file (in `--set`, to
the working folder). `base: other.yaml` (or a list of files) names the recipes that this one starts
from, see [methods.md](methods.md).
"""

_NAMES = """\
## Names

A key that is neither listed here nor registered by a module under `dependencies` is refused.
"""


def recipe_keys() -> str:
    """The whole document: one table per section of the recipe."""
    titles: dict[type[BaseModel], list[str]] = {Recipe: ["The recipe"]}
    for key, model in _sections(Recipe, ""):
        titles.setdefault(model, []).append(f"`{key}`")
    for section, kind in (("optimizer", OPTIMIZER), ("scheduler", SCHEDULER)):
        for name, own in kind.own.items():
            if own.parameters is not None:
                title = f"`train.{section}.kwargs` of {own.short or name}"
                titles.setdefault(own.parameters, []).append(title)
    for name, term in TERMS.items():
        assert term.parameters is not None
        titles.setdefault(term.parameters, []).append(f"`kwargs` of {name}")
        for key, model in _sections(term.parameters, ""):
            titles[model] = [f"`{key}` of every term that has it"]
    tables = [f"\n## {', '.join(keys)}\n\n{_table(model)}" for model, keys in titles.items()]
    return _INTRO + "".join(tables) + _divergences() + _names()


def _divergences() -> str:
    rows = ["| divergence | parameters | |", "| --- | --- | --- |"]
    for name in DIVERGENCES:
        entry = divergence_entry(name)
        parameters = [
            f"`{key}`: {known.meaning}; {known.expected}, {_number(known.default)} if not given"
            for key, known in entry.parameters.items()
        ]
        names = ", ".join(f"`{known}`" for known in (name, *entry.aliases))
        rows.append(f"| {names} | {'<br>'.join(parameters)} | {entry.meaning} |")
    return "\n## Divergences\n\n" + "\n".join(rows) + "\n"


def _number(default: float | tuple[float, ...]) -> str:
    return f"{default:g}" if not isinstance(default, tuple) else str([float(x) for x in default])


def _names() -> str:
    rows = ["| kind | of this package | of torchdistill and torch |", "| --- | --- | --- |"]
    rows += [f"| {kind.what} | {_own(kind)} | {_listed(kind.theirs)} |" for kind in KINDS]
    return "\n" + _NAMES + "\n" + "\n".join(rows) + "\n"


def _own(kind: Kind) -> str:
    return _listed([own.short or name for name, own in kind.own.items()])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section below a model, with its dotted key."""
    for name, field in model.model_fields.items():
        inner = _inner_model(field.annotation)
        if inner is not None:
            key = f"{prefix}{name}{_suffix(field.annotation)}"
            yield key, inner
            yield from _sections(inner, f"{key}.")


def _suffix(annotation: Any) -> str:
    """How the path of an entry of a list or mapping continues."""
    origin = typing.get_origin(annotation)
    return {dict: ".NAME", list: ".0"}.get(origin, "") if origin else ""


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | value | default | |", "| --- | --- | --- | --- |"]
    fields = sorted(model.model_fields.items(), key=lambda item: not item[1].is_required())
    for name, field in fields:
        value = _type_name(field.annotation, field.metadata).replace("|", "\\|")
        text = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {value} | {_default(field)} | {text} |")
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel) or (isinstance(value, list) and value and _is_model(value[0])):
        return "see below"
    if value is None or value in ([], {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _is_model(value: Any) -> bool:
    return isinstance(value, BaseModel)


def _type_name(annotation: Any, metadata: list[Any] | None = None) -> str:
    limits = [
        str(entry.func)
        for entry in metadata or []
        if isinstance(entry, AfterValidator) and isinstance(entry.func, Within)
    ]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0], list(arguments[1:]))
    if origin is typing.Literal:
        return ", ".join(f"`{word}`" for word in arguments)
    if origin in (types.UnionType, typing.Union):
        names = [_type_name(part) for part in arguments if part is not type(None)]
        return " or ".join(names)
    if origin is list:
        return f"list of: {_type_name(arguments[0])}"
    if origin is dict or _inner_model(annotation) is not None:
        return "mapping"
    if any(isinstance(entry, PathKey) for entry in metadata or []):
        return "path"
    words = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}
    return " ".join([words.get(annotation, "see description"), *limits])


if __name__ == "__main__":
    write_text(DOCUMENT, recipe_keys())
