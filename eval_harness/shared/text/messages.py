"""A row's conversation: OpenAI's `messages` or ShareGPT's `conversations`, in one checked form.

Arrow fills the keys that a message lacks with null, so null counts as absent everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import json_type, names, shown
from eval_harness.shared.files.jsonl import replace_lone_surrogates
from eval_harness.shared.files.strict_json import NotJsonError, decode
from eval_harness.shared.near import near_names
from eval_harness.shared.text.answers import read_newlines
from eval_harness.shared.text.tool_calls import ToolCall, read_tool_calls, read_tools

ROLES = ("system", "user", "assistant", "tool")
COLUMNS = ("messages", "conversations")
# ShareGPT's names, and those of the data sets that took over its form.
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function_response": "tool",
    "observation": "tool",
    **{role: role for role in ROLES},
}
# Of an assistant's message: keys that are not read, and where what they say belongs.
_LOST = {
    "function_call": "write it as tool_calls",
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking"),
        "put it into the content as the template writes it (<think>...), or delete it",
    ),
}
_CONTENT = "a text or a list of {'type': 'text', 'text': ...}"


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: of `ROLES`.
        content: "" where an assistant only calls tools.
        tool_calls: of an assistant.
        name, tool_call_id: of a tool's answer; templates print one or the other.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None

    def to_template(self) -> dict[str, Any]:
        """The message as chat templates read it; keys that it lacks are left out."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            found["tool_calls"] = [call.to_template() for call in self.tool_calls]
        named = {"name": self.name, "tool_call_id": self.tool_call_id}
        return found | {key: value for key, value in named.items() if value is not None}


@dataclass(frozen=True)
class Conversation:
    """The turns of a row, and the tools that its assistant may call.

    Attributes:
        messages: at least one; a system message only at the start.
        tools: JSON schemas, as chat templates read them.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    def to_template(self) -> list[dict[str, Any]]:
        """The messages as chat templates read them."""
        return [message.to_template() for message in self.messages]

    def with_answer(self, text: str) -> "Conversation":
        """The conversation with one more turn of the assistant."""
        return replace(self, messages=(*self.messages, Message("assistant", text)))

    def last_answer(self) -> int | None:
        """The index of the assistant's last turn with a text or a call; None if it has none."""
        turns = [
            turn
            for turn, message in enumerate(self.messages)
            if message.role == "assistant" and (message.content.strip() or message.tool_calls)
        ]
        return turns[-1] if turns else None

    def before(self, turn: int) -> "Conversation":
        """The messages before the one with this index."""
        return replace(self, messages=self.messages[:turn])


def conversation_column(row: Mapping[str, Any]) -> str | None:
    """The column with the row's conversation: `messages` or `conversations`, or None.

    A row with an instruction or a prompt and an output is a task, whatever else it has.
    """
    has_task = row.get("instruction") is not None or row.get("prompt") is not None
    if has_task and row.get("output") is not None:
        return None
    # A cell of a CSV file cannot be null.
    return next((name for name in COLUMNS if row.get(name) not in (None, "")), None)


def read_conversation(
    row: Mapping[str, Any], place: str, *, column: str = "messages", newline: str | None = None
) -> Conversation:
    """The conversation in a row, with its `tools` and (in ShareGPT's form) its `system` text.

    Args:
        row: `column` holds a list of messages with role and content, or with from and value;
            or such a list as a JSON text, as in a CSV file.
        place: of the row, for errors.
        newline: the data set's mark for a newline, as in `read_newlines`.
    Raises:
        DistillensError: names place, turn and field.
    """
    entries = _entries(row[column], f"{place}: {column}")
    messages = [
        _message(entry, f"{place}: {column}[{turn}]", newline) for turn, entry in enumerate(entries)
    ]
    system = row.get("system")
    if system is not None:
        if not isinstance(system, str):
            raise DistillensError(f"{place}: system is {shown(system)}, expected a text")
        if messages[0].role == "system":
            raise DistillensError(
                f"{place}: found a system text and a system message in {column}[0]; delete one"
            )
        if system:
            messages.insert(0, Message("system", _clean(system, newline)))
    _check_order(messages, f"{place}: {column}", shift=len(messages) - len(entries))
    return Conversation(tuple(messages), read_tools(row.get("tools"), f"{place}: tools"))


def _entries(value: object, where: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = decode(value)
        except NotJsonError as error:
            raise DistillensError(
                f"{where} is a text, {error.message}; expected a list of messages"
            ) from error
    if not isinstance(value, list | tuple):
        raise DistillensError(
            f"{where} is {shown(value)} (a JSON {json_type(value)}), expected a list of messages"
        )
    if not value:
        raise DistillensError(f"{where} is empty, expected at least one message")
    return list(value)


def _message(entry: object, where: str, newline: str | None) -> Message:
    if not isinstance(entry, Mapping):
        raise DistillensError(
            f"{where} is a JSON {json_type(entry)}, expected an object with role and content"
        )
    sharegpt = entry.get("role") is None and entry.get("from") is not None
    role_key, content_key = ("from", "value") if sharegpt else ("role", "content")
    roles = _SHAREGPT_ROLES if sharegpt else {role: role for role in ROLES}
    found = entry.get(role_key)
    if found is None:
        raise DistillensError(
            f"{where}: found the keys {names(entry)}; expected role and content, or from and value"
        )
    if not isinstance(found, str) or found not in roles:
        near = near_names(found, roles, most=1) if isinstance(found, str) else ""
        raise DistillensError(
            f"{where}.{role_key} is {shown(found)}, expected {', '.join(roles)}{near}"
        )
    role, value = roles[found], entry.get(content_key)
    if sharegpt and found == "function_call":
        called = read_tool_calls(value, f"{where}.value")
        if not called:
            raise DistillensError(f"{where}.value is {shown(value)}, expected a call as JSON")
        return Message(role, "", called)
    calls = read_tool_calls(entry.get("tool_calls"), f"{where}.tool_calls")
    if calls and role != "assistant":
        raise DistillensError(f"{where}: a {role} message has tool_calls; only an assistant has")
    if role == "assistant":
        _check_lost(entry, where)
    if value is None and calls:
        value = ""
    is_tool = role == "tool"
    return Message(
        role,
        _clean(_content(value, f"{where}.{content_key}"), newline),
        calls,
        name=_optional_text(entry, "name", where) if is_tool else None,
        tool_call_id=_optional_text(entry, "tool_call_id", where) if is_tool else None,
    )


def _check_lost(entry: Mapping[str, Any], where: str) -> None:
    """Refuses what other formats mean by an answer and what would silently not be learnt."""
    for key, advice in _LOST.items():
        if entry.get(key):
            raise DistillensError(
                f"{where}.{key} is {shown(entry[key])}, which is not read; {advice}"
            )
    weight = entry.get("weight")
    if weight is not None and weight != 1:
        raise DistillensError(
            f"{where}.weight is {shown(weight)}, but all answers that are learnt count alike; "
            "delete the key, or use supervise: last_turn"
        )


def _content(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise DistillensError(f"{where} is {shown(value)}, expected {_CONTENT}")
    texts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(text, str):
            raise DistillensError(f"{where}[{number}] is {shown(part)}, expected {_CONTENT}")
        texts.append(text)
    return "".join(texts)


def _optional_text(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise DistillensError(f"{where}.{key} is {shown(value)}, expected a text")
    return value


def _clean(text: str, newline: str | None) -> str:
    return read_newlines(replace_lone_surrogates(text), newline)


def _check_order(messages: list[Message], where: str, *, shift: int) -> None:
    """What no template means: it would drop such a turn, or print it in another's place."""
    for turn, message in enumerate(messages):
        place = f"{where}[{turn - shift}]"
        before = messages[turn - 1] if turn else None
        if message.role == "system" and before is not None:
            raise DistillensError(f"{place} is a system message, which can only come first")
        if message.role == "tool" and (before is None or before.role not in ("assistant", "tool")):
            raise DistillensError(
                f"{place} is a tool's answer after {before.role if before else 'nothing'}; "
                "expected it after the assistant that calls the tool"
            )
