"""What a judge decided, read from its own words and never guessed."""

import re
from typing import Literal

# A, B: the answer in the first or second place; C: a tie.
Verdict = Literal["A", "B", "C", "unreadable", "refused"]
READABLE: tuple[Verdict, ...] = ("A", "B", "C")
_MARK = re.compile(r"\[\[([ABC])\]\]")
_THOUGHT_END = "</think>"


def read_verdict(text: str, *, refused: bool = False) -> Verdict:
    """The verdict that a judge's text names.

    What a reasoning model wrote before its last `</think>` does not count.

    Args:
        text: of the judge alone, without the prompt.
        refused: whether the endpoint says that the judge refused.
    Returns:
        A, B or C if the text has one of [[A]], [[B]] and [[C]], as often as it likes; "unreadable"
        if it has none, or several that differ.
    """
    if refused:
        return "refused"
    found = set(_MARK.findall(text.rpartition(_THOUGHT_END)[2]))
    if found == {"A"}:
        return "A"
    if found == {"B"}:
        return "B"
    return "C" if found == {"C"} else "unreadable"
