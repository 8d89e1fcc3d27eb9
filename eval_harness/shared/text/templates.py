"""Prompt templates: how an instruction and its input become the text that a model continues."""

from typing import TYPE_CHECKING

from eval_harness.errors import DistillensError
from eval_harness.shared.text.chat_templates import chat_prompt
from eval_harness.shared.text.special_text import Part
from eval_harness.shared.text.template_table import TEMPLATES, check_template, parse_form
from eval_harness.shared.text.tokenisation import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_prompt(
    template: str,
    instruction: str,
    input: str = "",
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> str:
    """The prompt's text, up to where the response begins.

    If a format string has no place for the input (and in `chat`), it follows the instruction after
    one newline, so that it is never lost.

    Args:
        template: a name of `TEMPLATES` or a format string with {instruction} and {input}.
        instruction: used as it is.
        input: "" if the task has none.
        tokenizer: needed by `chat` only, for its chat template.
    Raises:
        DistillensError: the template is unknown, or `chat` has no chat template to use.
    Source: the MiniLLM line of work (arXiv 2306.08543) for alpaca and qwen.
    """
    return "".join(prompt_pieces(template, instruction, input, tokenizer=tokenizer))


def prompt_pieces(
    template: str,
    instruction: str,
    input: str = "",
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> tuple[str, str, str]:
    """(prefix, body, suffix) of `render_prompt`'s text; only the body may be cut.

    The body is the longer one of instruction and input, in `chat` the whole message.
    """
    before, body, after = prompt_parts(template, instruction, input, tokenizer=tokenizer)
    return _text(before), body.text, _text(after)


def prompt_parts(
    template: str,
    instruction: str,
    input: str = "",
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> tuple[list[Part], Part, list[Part]]:
    """The same in parts that separate the row's text from the template's."""
    if template == "chat":
        prefix, message, suffix = chat_prompt(_joined(instruction, input), tokenizer)
        return [Part(prefix, False)], Part(message, True), [Part(suffix, False)]
    check_template(template)
    named = TEMPLATES.get(template)
    segments = parse_form(named[1 if input else 0] if named else template)
    if "input" not in [field for _, field in segments]:
        instruction, input = _joined(instruction, input), ""
    body_field = "input" if len(input) > len(instruction) else "instruction"
    values = {"instruction": instruction, "input": input}
    before: list[Part] = []
    after: list[Part] = []
    found = False
    for literal, field in segments:
        parts = after if found else before
        parts.append(Part(literal, False))
        if field == body_field and not found:
            found = True
        elif field is not None:
            parts.append(Part(values[field], True))
    return before, Part(values[body_field], True), after


def cut_prompt(
    template: str,
    instruction: str,
    input: str = "",
    *,
    max_tokens: int,
    tokenizer: "PreTrainedTokenizerBase",
) -> tuple[list[int], bool]:
    """Token ids of a prompt cut to at most `max_tokens`; the template stays whole.

    The longer of instruction and input loses its end; if that is not enough, so does the other.

    Args:
        max_tokens: at least what the template itself needs.
        tokenizer: a `TextEncoder`, or a transformers tokenizer, for which no first token is added.
    Returns:
        (token ids, whether something was cut).
    Raises:
        DistillensError: the template alone is longer than `max_tokens`.
    """
    encoder = tokenizer
    if not isinstance(encoder, TextEncoder):
        encoder = TextEncoder(tokenizer, template=template, add_bos_token=False)
    parts = prompt_parts(template, instruction, input, tokenizer=encoder.tokenizer)
    before, body, after = parts
    ids = encoder.prompt([*before, body, *after]).ids
    if len(ids) <= max_tokens:
        return ids, False
    fitting = cut_body(parts, encoder, max_tokens)
    if fitting is not None:
        return fitting, True
    if not instruction and not input:
        raise DistillensError(
            f"the template alone takes {len(ids)} tokens, but a prompt may have {max_tokens}; "
            "raise the limit or use a shorter template"
        )
    if len(input) > len(instruction):
        input = ""
    else:
        instruction = ""
    ids, _ = cut_prompt(template, instruction, input, max_tokens=max_tokens, tokenizer=encoder)
    return ids, True


def cut_body(
    parts: tuple[list[Part], Part, list[Part]], encoder: TextEncoder, max_tokens: int
) -> list[int] | None:
    """Token ids with as much of the body as fits; None if even an empty body is too long.

    Bisects over the number of characters kept; doubling first keeps very long bodies cheap.
    """
    before, body, after = parts

    def encode(num_characters: int) -> list[int]:
        kept = Part(body.text[:num_characters], body.from_row)
        return encoder.prompt([*before, kept, *after]).ids

    length = len(body.text)
    fitting, too_long = 0, min(length, 4 * max_tokens)
    best = encode(0)
    if len(best) > max_tokens:
        return None
    while too_long < length:
        ids = encode(too_long)
        if len(ids) > max_tokens:
            break
        fitting, best, too_long = too_long, ids, min(length, 2 * too_long)
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        ids = encode(middle)
        if len(ids) <= max_tokens:
            fitting, best = middle, ids
        else:
            too_long = middle
    return best


def _text(parts: list[Part]) -> str:
    return "".join(part.text for part in parts)


def _joined(instruction: str, input: str) -> str:
    return f"{instruction}\n{input}" if input else instruction
