"""An assistant's calls of tools, and the tools' descriptions, as chat templates read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import json_type, shown
from eval_harness.shared.files.strict_json import NotJsonError, decode


@dataclass(frozen=True)
class ToolCall:
    """One call.

    Attributes:
        arguments: by name; OpenAI's JSON text of them is read.
        id: what the tool's answer refers to, if the row has one.
    """

    name: str
    arguments: dict[str, Any]
    id: str | None = None

    def to_template(self) -> dict[str, Any]:
        """The call in transformers' form, whose arguments are an object rather than a text."""
        function = {"name": self.name, "arguments": self.arguments}
        found: dict[str, Any] = {"type": "function", "function": function}
        return found if self.id is None else {**found, "id": self.id}


def read_tool_calls(value: object, where: str) -> tuple[ToolCall, ...]:
    """The calls of one message: OpenAI's objects, or name and arguments alone; () if none.

    Args:
        value: an object or a list of them, perhaps as a JSON text.
    Raises:
        DistillensError: names `where`.
    """
    return tuple(
        _call(entry, place) for place, entry in _objects(value, where, what="calls of tools")
    )


def read_tools(value: object, where: str) -> tuple[dict[str, Any], ...]:
    """The descriptions of a row's tools; () if it has none.

    Args:
        value: a list of JSON schemas, perhaps as a JSON text.
    Raises:
        DistillensError: names `where`.
    """
    tools = []
    for place, entry in _objects(value, where, what="tools"):
        function = entry.get("function") or entry
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DistillensError(f"{place} is {shown(entry)}, expected a tool with a name")
        tools.append(entry)
    return tuple(tools)


def _call(entry: dict[str, Any], where: str) -> ToolCall:
    function = entry.get("function") or entry
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise DistillensError(f"{where} is {shown(entry)}, expected a function's name, arguments")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _decoded(arguments, f"{where}.arguments", "an object with the arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise DistillensError(
            f"{where}.arguments is a JSON {json_type(arguments)}, expected an object"
        )
    call_id = entry.get("id")
    if call_id is not None and not isinstance(call_id, str):
        raise DistillensError(f"{where}.id is {shown(call_id)}, expected a text")
    return ToolCall(name, arguments, call_id)


def _objects(value: object, where: str, *, what: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of each entry; Hub data sets write such lists as JSON texts."""
    if isinstance(value, str):
        value = _decoded(value, where, f"a list of {what}") if value.strip() else None
    if value is None:
        return []
    entries = list(value) if isinstance(value, list | tuple) else [value]
    found = []
    for number, entry in enumerate(entries):
        place = f"{where}[{number}]"
        if not isinstance(entry, dict):
            raise DistillensError(f"{place} is a JSON {json_type(entry)}, expected an object")
        found.append((place, entry))
    return found


def _decoded(text: str, where: str, expected: str) -> object:
    try:
        return decode(text)
    except NotJsonError as error:
        raise DistillensError(f"{where} is a text, {error.message}; expected {expected}") from error
