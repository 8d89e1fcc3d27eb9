"""Prompt templates: how an instruction and its input become the text that a model continues."""

import difflib
import string
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.jsonl import replace_lone_surrogates

_TASK = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request.\n\n"
_WITHOUT_INPUT = f"{_TASK}. {_REQUEST}### Instruction:\n{{instruction}}\n\n### Response:\n"
_WITH_INPUT = (
    f"{_TASK}, paired with an input that provides further context. {_REQUEST}"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_QWEN = "<|im_start|>", "<|im_end|><|im_start|>Assistant:"

# name -> format strings (without input, with input); `chat` is the tokenizer's own template.
TEMPLATES: dict[str, tuple[str, str] | None] = {
    "alpaca": (_WITHOUT_INPUT, _WITH_INPUT),
    "qwen": (f"{_QWEN[0]}{_WITHOUT_INPUT}{_QWEN[1]}", f"{_QWEN[0]}{_WITH_INPUT}{_QWEN[1]}"),
    # Short, for small models; lm-evaluation-harness asks GSM8K in nearly this form.
    "question": (
        "Question: {instruction}\nAnswer:\n",
        "Question: {instruction}\n{input}\nAnswer:\n",
    ),
    "chat": None,
}
_FIELDS = ("instruction", "input")
_MARK = "\ue000distillens\ue001"


def check_template(template: str) -> None:
    """Refuses what is neither a template's name nor a format string with {instruction}.

    Raises:
        DistillensError: names the nearest template, or the field that cannot be filled.
    """
    if template in TEMPLATES:
        return
    if "{" not in template:
        near = difflib.get_close_matches(template, TEMPLATES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DistillensError(
            f"template {template!r} is not known; expected {', '.join(TEMPLATES)}, "
            f"or a format string with {{instruction}} and {{input}}{hint}"
        )
    if "instruction" not in [field for _, field in _parse(template)]:
        raise DistillensError(
            f"template {template!r} has no {{instruction}}, so every prompt would be the same"
        )


def render_prompt(
    template: str, instruction: str, input: str = "", *, tokenizer: Any = None
) -> str:
    """The prompt's text, up to where the response begins.

    An input that a format string has no place for (and in `chat`) follows the instruction after one
    newline, so that it is never lost.

    Args:
        template: a name of `TEMPLATES` or a format string with {instruction} and {input}.
        instruction: taken as it is.
        input: "" where the task has none.
        tokenizer: needed by `chat` only, for its chat template.
    Raises:
        DistillensError: the template is unknown, or `chat` has no chat template to use.
    Source: the MiniLLM line of work (arXiv 2306.08543) for alpaca and qwen.
    """
    if template == "chat":
        return _chat_text(_joined(instruction, input), tokenizer)
    return "".join(prompt_pieces(template, instruction, input, tokenizer=tokenizer))


def prompt_pieces(
    template: str, instruction: str, input: str = "", *, tokenizer: Any = None
) -> tuple[str, str, str]:
    """(prefix, body, suffix) of `render_prompt`'s text; the body alone may be cut.

    The body is the longer one of instruction and input, in `chat` the whole message.
    """
    if template == "chat":
        return _chat_pieces(_joined(instruction, input), tokenizer)
    check_template(template)
    named = TEMPLATES.get(template)
    segments = _parse(named[1 if input else 0] if named else template)
    if "input" not in [field for _, field in segments]:
        instruction, input = _joined(instruction, input), ""
    body_field = "input" if len(input) > len(instruction) else "instruction"
    values = {"instruction": instruction, "input": input}
    before, after, found = "", "", False
    for literal, field in segments:
        text = "" if field is None else values[field]
        if found:
            after += literal + text
        elif field == body_field:
            before, found = before + literal, True
        else:
            before += literal + text
    return before, values[body_field], after


def cut_prompt(
    template: str, instruction: str, input: str = "", *, max_tokens: int, tokenizer: Any
) -> tuple[list[int], bool]:
    """Token ids of a prompt of at most `max_tokens`, the template whole.

    The longer one of instruction and input loses its end; only where that is not enough, the other
    one too.

    Args:
        max_tokens: at least what the template itself needs.
        tokenizer: a transformers tokenizer; no special tokens are added.
    Returns:
        (token ids, whether something was cut).
    Raises:
        DistillensError: the template alone is longer than `max_tokens`.
    """
    instruction, input = replace_lone_surrogates(instruction), replace_lone_surrogates(input)

    def encode(prompt: str) -> list[int]:
        return tokenizer(prompt, add_special_tokens=False)["input_ids"]

    ids = encode(render_prompt(template, instruction, input, tokenizer=tokenizer))
    if len(ids) <= max_tokens:
        return ids, False
    prefix, body, suffix = prompt_pieces(template, instruction, input, tokenizer=tokenizer)
    if len(encode(prefix + suffix)) <= max_tokens:
        return _longest_fitting(prefix, body, suffix, encode, max_tokens), True
    if not instruction and not input:
        raise DistillensError(
            f"the template alone takes {len(ids)} tokens, more than the {max_tokens} of a prompt; "
            "raise the limit or use a shorter template"
        )
    if len(input) > len(instruction):
        input = ""
    else:
        instruction = ""
    ids, _ = cut_prompt(template, instruction, input, max_tokens=max_tokens, tokenizer=tokenizer)
    return ids, True


def _longest_fitting(
    prefix: str, body: str, suffix: str, encode: Any, max_tokens: int
) -> list[int]:
    """Bisection over the characters kept; doubling first keeps very long bodies cheap."""
    fitting, too_long = 0, min(len(body), 4 * max_tokens)
    best = encode(prefix + suffix)
    while too_long < len(body):
        ids = encode(prefix + body[:too_long] + suffix)
        if len(ids) > max_tokens:
            break
        fitting, best, too_long = too_long, ids, min(len(body), 2 * too_long)
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        ids = encode(prefix + body[:middle] + suffix)
        if len(ids) <= max_tokens:
            fitting, best = middle, ids
        else:
            too_long = middle
    return best


def _joined(instruction: str, input: str) -> str:
    return f"{instruction}\n{input}" if input else instruction


def _parse(template: str) -> list[tuple[str, str | None]]:
    """(literal, field) segments of a format string; attribute access and formats are refused."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DistillensError(
            f"template {template!r} is not a format string: {error}; write a literal brace twice"
        ) from error
    for _, field, format_spec, conversion in parsed:
        if field is not None and (field not in _FIELDS or format_spec or conversion):
            raise DistillensError(
                f"template {template!r} has the field {{{field}}}, expected only {{instruction}} "
                "and {input}; write a literal brace twice"
            )
    return [(literal, field) for literal, field, _, _ in parsed]


def _chat_pieces(message: str, tokenizer: Any) -> tuple[str, str, str]:
    # Templates may trim the message, so the body is what stands between prefix and suffix.
    prefix, _, suffix = _chat_text(_MARK, tokenizer).partition(_MARK)
    text = _chat_text(message, tokenizer)
    if not (text.startswith(prefix) and text.endswith(suffix)):
        raise DistillensError(
            f"the chat template of {tokenizer.name_or_path!r} changes with the message, "
            "so a prompt cannot be cut within it; use a format string"
        )
    return prefix, text[len(prefix) : len(text) - len(suffix)], suffix


def _chat_text(message: str, tokenizer: Any) -> str:
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        found = "no tokenizer" if tokenizer is None else f"{tokenizer.name_or_path!r} without one"
        raise DistillensError(
            f"template 'chat' needs a tokenizer with a chat template, found {found}; "
            "use alpaca, qwen or a format string"
        )
    messages = [{"role": "user", "content": message}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
