"""Any text as one line that a terminal shows as it is."""

_LONGEST = 900
_END = 200


def one_line(text: str) -> str:
    """At most 900 characters, in one line, without control characters.

    White space becomes single spaces; of a longer text the beginning and the end stay, since that
    is where an error says the place and what to do.
    """
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - _END - 5]} ... {text[-_END:]}"
