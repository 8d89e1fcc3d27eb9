"""The prompt templates that have a name, one entry each, and how to add one's own."""

import string

from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.near import near_names

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
_OURS = frozenset(TEMPLATES)
_FIELDS = ("instruction", "input")


def register_template(name: str, without_input: str, with_input: str | None = None) -> None:
    """Gives a prompt template a name, for this process.

    Args:
        name: for `--template`, `template=` and the `template:` of a benchmark file. Registering a
            name again replaces its text.
        without_input: a format string with {instruction}, for rows without an input.
        with_input: a format string with {instruction} and {input}, for the others. By default
            `without_input`; if that has no place for the input, it follows the instruction.
    Raises:
        DistillensError: a built-in name, a name with a brace, or not a format string with
            {instruction}.
    """
    for text in (name, without_input, "" if with_input is None else with_input):
        if not isinstance(text, str):
            raise DistillensError(f"template {name!r}: found {text!r}, expected a text")
    if name in _OURS:
        raise DistillensError(f"template {name!r} is built in; choose another name")
    if not name.isprintable() or not name.strip() or set(name) & set("{}"):
        raise DistillensError(
            f"template {name!r}: expected a name of printable characters without braces"
        )
    forms = (without_input, without_input if with_input is None else with_input)
    for form in forms:
        check_form(form)
    TEMPLATES[name] = forms


def template_identity(template: str) -> str:
    """What a fingerprint records: a registered name alone does not determine the prompts."""
    forms = TEMPLATES.get(template)
    return template if forms is None or template in _OURS else f"{template}@{digest(list(forms))}"


def template_text(template: str) -> str:
    """All text of a named template; "" for `chat` and for unknown names."""
    return "".join(TEMPLATES.get(template) or ())


def check_template(template: str) -> None:
    """Refuses anything but a template's name or a format string with {instruction}.

    Raises:
        DistillensError: names the nearest template, or the field that cannot be filled.
    """
    if template in TEMPLATES:
        return
    if "{" not in template:
        raise DistillensError(
            f"template {template!r} is not known; expected {', '.join(TEMPLATES)}, or a format "
            f"string with {{instruction}} and {{input}}{near_names(template, TEMPLATES, most=1)}"
        )
    check_form(template)


def check_form(form: str) -> None:
    """Refuses a text that is not a format string with {instruction}.

    Raises:
        DistillensError: see above.
    """
    if "instruction" not in [field for _, field in parse_form(form)]:
        raise DistillensError(
            f"template {form!r} has no {{instruction}}, so every prompt would be the same"
        )


def parse_form(form: str) -> list[tuple[str, str | None]]:
    """(literal, field) segments of a format string; attribute access and formats are refused.

    Raises:
        DistillensError: not a format string, or a field other than {instruction} and {input}.
    """
    try:
        parsed = list(string.Formatter().parse(form))
    except ValueError as error:
        raise DistillensError(
            f"template {form!r} is not a format string: {error}; double every literal brace"
        ) from error
    for _, field, format_spec, conversion in parsed:
        if field is not None and (field not in _FIELDS or format_spec or conversion):
            raise DistillensError(
                f"template {form!r} has the field {{{field}}}, expected only {{instruction}} and "
                "{input}; double every literal brace"
            )
    return [(literal, field) for literal, field, _, _ in parsed]
