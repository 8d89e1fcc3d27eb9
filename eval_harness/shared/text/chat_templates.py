"""Rendering with a tokenizer's own chat template: the same text every day."""

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The date for templates that ask for one: what Llama 3.1's and 3.2's own templates fall back to.
# Prompts that changed at midnight could be neither resumed nor compared.
TEMPLATE_DATE = datetime.datetime(2024, 7, 26)
_DATE_STRING = TEMPLATE_DATE.strftime("%d %b %Y")
# As transformers looks for it.
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_DIRECTIVES = "aAwdbBmyYHIpMSfzZjUWcxXGuVeDFhRTntClk"

# Private characters only: no template changes their case, and no tokenizer ever sees them.
MARK = "\ue000\ue001\ue002"


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The text of a conversation; dates in it are those of `TEMPLATE_DATE`.

    Args:
        tools: that the assistant may call; JSON schemas.
    Raises:
        DistillensError: there is no chat template, or it fails; one line with the reason.
    """
    template, dated = _dated(chat_template_of(tokenizer))
    with _one_line_errors(tokenizer, messages):
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template,
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **dated,
            )
        )


def marks_answers(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template says what an assistant writes: `{% generation %}`."""
    return _GENERATION.search(chat_template_of(tokenizer)) is not None


def render_answers(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and the stretches of it that the template marks as answers.

    Raises:
        DistillensError: as for `render_chat`.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    template, dated = _dated(chat_template_of(tokenizer))
    with _one_line_errors(tokenizer, messages):
        (text,), (spans,) = render_jinja_template(
            [[dict(message) for message in messages]],
            chat_template=template,
            tools=[dict(tool) for tool in tools] or None,
            return_assistant_tokens_mask=True,
            **{**tokenizer.special_tokens_map, **dated},
        )
    return text, list(spans)


def _dated(template: str) -> tuple[str, dict[str, Any]]:
    """The template without a clock, and what it needs instead."""
    dated: dict[str, Any] = {}
    if "strftime_now" in template:
        # Templates get variables as plain data, never as functions; so a macro replaces
        # transformers' function, which reads the clock.
        template = _CLOCK + template
        dated["distillens_date"] = _date_parts()
    if "date_string" in template:
        dated["date_string"] = _DATE_STRING
    return template, dated


@contextmanager
def _one_line_errors(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]]
) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a template may fail in any way that Jinja can
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        roles = ", ".join(message["role"] for message in messages)
        # Conversations have no other template; our own two messages are no conversation of a row.
        is_row = len(messages) > 1 and MARK not in str(messages)
        advice = "change these messages" if is_row else "use alpaca, qwen or a format string"
        raise DistillensError(
            f"the chat template of {_name(tokenizer)} cannot be rendered for the messages "
            f"{roles} ({type(error).__name__}: {reason.strip()[:300]}); correct it, or {advice}"
        ) from error


def chat_template_of(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The Jinja text of the tokenizer's chat template.

    Raises:
        DistillensError: it has none.
    """
    found = "no tokenizer"
    if tokenizer is not None:
        found = f"{_name(tokenizer)}, which has none"
        if getattr(tokenizer, "chat_template", None):
            try:
                return str(tokenizer.get_chat_template())
            except ValueError as error:  # several templates, none of them the default
                found = f"{_name(tokenizer)}, which has no default one ({error})"
    raise DistillensError(
        f"template 'chat' needs a tokenizer with a chat template, found {found}; use alpaca, qwen "
        "or a format string"
    )


def reads_the_date(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template asks for a date, and so gets `TEMPLATE_DATE`."""
    template = chat_template_of(tokenizer)
    return "strftime_now" in template or "date_string" in template


def chat_prompt(message: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str, str]:
    """(before, message, after) of a prompt with one message; templates may trim the message.

    Raises:
        DistillensError: the template fails, loses or changes the message, or does not open the
            assistant's turn.
    """
    before, after = _frame(tokenizer)
    text = render_chat(tokenizer, [_user(message)], add_generation_prompt=True)
    if text.startswith(before) and text.endswith(after) and len(text) >= len(before + after):
        return before, text[len(before) : len(text) - len(after)], after
    # The text around the message depends on the message.
    before, found, after = text.partition(message.strip())
    if not found or text.count(found) > 1:
        raise DistillensError(
            f"the chat template of {_name(tokenizer)} changes the message, so the two cannot be "
            "told apart; use a format string"
        )
    return before, found, after


def turn_end_text(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What the template writes after an assistant's message; "" if it never writes one."""
    key = _key(tokenizer)
    if key not in _TURN_ENDS:
        messages = [_user("a"), {"role": "assistant", "content": MARK}]
        text = render_chat(tokenizer, messages, add_generation_prompt=False)
        _TURN_ENDS[key] = text.rpartition(MARK)[2] if MARK in text else ""
    return _TURN_ENDS[key]


def around_turns(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text around a message and its answer; "" if it is not known."""
    messages = [_user(MARK), {"role": "assistant", "content": MARK}]
    pieces = render_chat(tokenizer, messages, add_generation_prompt=False).split(MARK)
    return "\n".join(pieces) if len(pieces) == 3 else ""


def literal_text(template: str) -> str:
    """The text in a Jinja template, its expressions' string constants included."""
    from jinja2 import Environment, TemplateError

    try:
        tokens = list(Environment(autoescape=False).lex(template))
    except TemplateError:
        return ""
    return "\n".join(value for _, kind, value in tokens if kind in ("data", "string"))


def _frame(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """(before, after) the user's message, checked; cached, since there are many rows."""
    key = _key(tokenizer)
    if key not in _FRAMES:
        _FRAMES[key] = _checked_frame(tokenizer)
    return _FRAMES[key]


def _key(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """What a template's text around messages depends on."""
    return chat_template_of(tokenizer), str(tokenizer.special_tokens_map)


_FRAMES: dict[tuple[str, str], tuple[str, str]] = {}
_TURN_ENDS: dict[tuple[str, str], str] = {}


def _checked_frame(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    text = render_chat(tokenizer, [_user(MARK)], add_generation_prompt=True)
    before, found, after = text.partition(MARK)
    if not found:
        raise DistillensError(
            f"the chat template of {_name(tokenizer)} leaves the user's message out, so all "
            "prompts would be the same; correct it, or use alpaca, qwen or a format string"
        )
    if text == render_chat(tokenizer, [_user(MARK)], add_generation_prompt=False):
        # Some templates need no opening (Mistral's [/INST] serves as one); others forget it.
        messages = [_user(MARK), {"role": "assistant", "content": MARK}]
        whole = render_chat(tokenizer, messages, add_generation_prompt=False)
        opening = whole[len(text) :].partition(MARK)[0]
        if whole.startswith(text) and opening.strip():
            raise DistillensError(
                f"the chat template of {_name(tokenizer)} ignores add_generation_prompt, so "
                f"nothing opens the assistant's turn ({opening.strip()!r} is missing); correct it, "
                "or use alpaca, qwen or a format string"
            )
    return before, after


def _user(message: str) -> dict[str, str]:
    return {"role": "user", "content": message}


def _name(tokenizer: "PreTrainedTokenizerBase") -> str:
    return repr(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)


@lru_cache(maxsize=1)
def _date_parts() -> dict[str, str]:
    parts = {f"%{letter}": TEMPLATE_DATE.strftime(f"%{letter}") for letter in _DIRECTIVES}
    # Without the leading zero, as GNU's strftime has it.
    parts |= {f"%-{letter}": parts[f"%{letter}"].lstrip("0") or "0" for letter in "dmyHIMSj"}
    return parts


# strftime as a Jinja macro. `trim_blocks` removes the line break, so the template itself begins on
# a line of its own, as it would without the macro.
_CLOCK = (
    "{%- macro strftime_now(format) -%}{%- set text = namespace(whole=[]) -%}{%- for piece in "
    "format.split('%%') -%}{%- set part = namespace(text=piece) -%}{%- for directive, value in "
    "distillens_date.items() -%}{%- set part.text = part.text.replace(directive, value) -%}{%- "
    "endfor -%}{%- set text.whole = text.whole + [part.text] -%}{%- endfor -%}{{- text.whole | "
    "join('%') -}}{%- endmacro %}\n"
)
