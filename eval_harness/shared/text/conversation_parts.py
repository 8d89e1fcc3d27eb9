"""A conversation rendered by a chat template, the row's text apart from the template's own."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError
from eval_harness.shared.text.chat_templates import render_chat
from eval_harness.shared.text.messages import Conversation
from eval_harness.shared.text.special_text import Part, pattern_of, tag_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A tool's name, for a look at whether a template prints one.
_PROBE = "distillens_{}_probe"
# No template changes the case of private characters; the first two that a row does not hold serve.
_PRIVATE = [chr(code) for code in range(0xE000, 0xF900)]


def conversation_parts(
    conversation: Conversation,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    add_generation_prompt: bool = True,
) -> list[Part]:
    """The rendered conversation; the content of each message is a part of its own.

    Every content is rendered a second time between marks that the row does not hold. White space
    around it stays outside of them, since many templates trim it. So do an assistant's added tokens
    that are not special (Qwen's <think>, <tool_call>): templates look for them, they open no turn,
    and a model that is trained on them writes them as tokens.

    Raises:
        DistillensError: the template fails, leaves out a message, a call or the tools, repeats a
            message, or decides by a message's text how to print it.
    """
    options: dict[str, Any] = {
        "tools": conversation.tools,
        "add_generation_prompt": add_generation_prompt,
    }
    messages = conversation.to_template()
    text = render_chat(tokenizer, messages, **options)
    opening, closing = _marks(conversation)
    tags, nothing = tag_pattern(tokenizer), pattern_of(())
    marked = []
    for turn, message in enumerate(messages):
        apart = tags if message["role"] == "assistant" else nothing
        content = _marked(message["content"], apart, f"{opening}{turn}", opening, closing)
        marked.append({**message, "content": content})
    rendered = render_chat(tokenizer, marked, **options)
    between = re.compile(f"{opening}(\\d+)_(\\d+){opening}(.*?){closing}", re.DOTALL)
    if between.sub(lambda match: match[3], rendered) != text:
        raise DistillensError(
            "the chat template decides by a message's text how to print it, so the two cannot be "
            "told apart; leave the row out, or use another template"
        )
    stretches = Counter((int(match[1]), match[2]) for match in between.finditer(rendered))
    printed = {turn for turn, _ in stretches}
    repeated = {turn for (turn, _), count in stretches.items() if count > 1}
    for turn, message in enumerate(messages):
        is_missing = closing in marked[turn]["content"] and turn not in printed
        if is_missing or turn in repeated:
            what = "leaves out" if is_missing else "repeats"
            raise DistillensError(
                f"the chat template {what} messages[{turn}], whose role is {message['role']}; "
                "delete that message, or use a template that prints it once"
            )
    _check_calls(conversation, tokenizer, options)
    return list(_parts(rendered, between))


def check_tool_texts(conversation: Conversation, signs: Iterable[str], place: str) -> None:
    """Refuses tools, calls and names with a template's signs in them.

    Templates take these apart and write them as JSON, so unlike a message's content they cannot be
    told from the template's own text.

    Args:
        signs: see `TextEncoder.signs`.
        place: of the row, for errors.
    Raises:
        DistillensError: names the place, the text and the sign.
    """
    pattern = pattern_of(signs)
    named = [(f"messages[{turn}]", asdict(m)) for turn, m in enumerate(conversation.messages)]
    for where, entry in [*named, ("tools", {"tools": conversation.tools})]:
        entry.pop("content", None)
        for text in _texts(entry):
            if found := pattern.search(text):
                raise DistillensError(
                    f"{place}: {where} has {found[0]!r} in a tool's text, which opens or ends "
                    "turns; delete it from the row"
                )


def _check_calls(
    conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", options: dict[str, Any]
) -> None:
    """Refuses a template without a place for tools: what it drops is neither seen nor learnt."""
    calling = [turn for turn, message in enumerate(conversation.messages) if message.tool_calls]
    if not calling and not conversation.tools:
        return
    # Under another name each: a tool's own may be in the messages' text as well.
    messages = [
        replace(
            message,
            tool_calls=tuple(replace(c, name=_PROBE.format(turn)) for c in message.tool_calls),
        ).to_template()
        for turn, message in enumerate(conversation.messages)
    ]
    tools = [_renamed(tool, _PROBE.format("t")) for tool in conversation.tools]
    text = render_chat(tokenizer, messages, **{**options, "tools": tools})
    found = [(f"the calls of messages[{turn}]", turn) for turn in calling]
    for what, name in [*([("the row's tools", "t")] if tools else []), *found]:
        if _PROBE.format(name) not in text:
            raise DistillensError(
                f"the chat template leaves out {what}; delete them, or use a template that prints "
                "them"
            )


def _renamed(tool: Mapping[str, Any], name: str) -> dict[str, Any]:
    if isinstance(tool.get("function"), Mapping):
        return {**tool, "function": {**tool["function"], "name": name}}
    return {**tool, "name": name}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _parts(rendered: str, between: re.Pattern[str]) -> Iterator[Part]:
    start = 0
    for match in between.finditer(rendered):
        yield Part(rendered[start : match.start()], from_row=False)
        yield Part(match[3], from_row=True)
        start = match.end()
    yield Part(rendered[start:], from_row=False)


def _marks(conversation: Conversation) -> tuple[str, str]:
    taken = "".join(message.content for message in conversation.messages)
    free = (character for character in _PRIVATE if character not in taken)
    return next(free), next(free)


def _marked(content: str, apart: re.Pattern[str], name: str, opening: str, closing: str) -> str:
    """The content with marks around each stretch of it, but for white space and what is apart."""
    whole, start = "", 0
    ends = [*(match.span() for match in apart.finditer(content)), (len(content), len(content))]
    for number, (end, following) in enumerate(ends):
        stretch = content[start:end]
        inner = stretch.strip()
        if inner:
            stretch = stretch.replace(inner, f"{name}_{number}{opening}{inner}{closing}", 1)
        whole += stretch + content[end:following]
        start = following
    return whole
