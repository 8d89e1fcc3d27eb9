"""How the next prompt begins if a model continues after its answer: a template's stop strings."""

import re
import string

from eval_harness.shared.text.template_table import TEMPLATES

_MARKER = re.compile(r"<\|[^|<>]*\|>|\[/?INST\]|</?s>")
_LONG = 40


def prompt_starts(template: str) -> tuple[str, ...]:
    """Stop strings that begin another prompt of this template; () if it has no recognisable start.

    They are the first and the last line of text before {instruction}. A short one ("Question:")
    counts only at the start of a line, and only if it ends with a punctuation mark: answers may
    have lines that begin with "1." or "Please". `chat` has none: its turns end with a token.

    Args:
        template: a name of `TEMPLATES` or a format string.
    """
    if template in TEMPLATES and TEMPLATES[template] is None:
        return ()
    starts: dict[str, None] = {}
    for form in TEMPLATES.get(template) or (template,):
        before = ""
        for literal, field, _, _ in string.Formatter().parse(form):
            before += literal
            if field is not None:
                break
        starts |= dict.fromkeys(_starts(before))
    return tuple(starts)


def _starts(before: str) -> list[str]:
    # Special tokens are not decoded, so only the text between them shows in an answer.
    pieces = [piece.strip() for piece in _MARKER.sub("\n", before).split("\n")]
    lines = [piece for piece in pieces if piece]
    found = []
    for line in lines[:1] + lines[1:][-1:]:
        if len(line) >= _LONG:
            found.append(line)
        elif any(character.isalpha() for character in line) and not line[-1].isalnum():
            found.append(f"\n{line}")
    markers = _MARKER.findall(before)
    return found + markers[:1]


def named_starts() -> tuple[str, ...]:
    """The stop strings of all templates that have a name."""
    return tuple(dict.fromkeys(start for name in TEMPLATES for start in prompt_starts(name)))
