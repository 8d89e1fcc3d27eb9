"""Any text as one line that is safe to show in a terminal."""

_LONGEST = 900
_END = 200


def one_line(text: str) -> str:
    """The text on one line of at most 900 characters, without control characters.

    White space becomes single spaces. A longer text keeps its beginning and its end: that is where
    an error says where it happened and what to do.
    """
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - _END - 5]} ... {text[-_END:]}"
