"""Texts of unknown length, made short enough for an error's one line."""


def shortened(text: str, length: int = 60) -> str:
    """The text, or its first `length` characters and an ellipsis."""
    return text if len(text) <= length else f"{text[:length]}..."
