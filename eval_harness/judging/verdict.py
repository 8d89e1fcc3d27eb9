"""What a judge decided, read from its own words and never guessed."""

import re
from typing import Literal

# A, B: the answer in the first or second place; C: a tie.
Verdict = Literal["A", "B", "C", "unreadable", "refused"]
READABLE: tuple[Verdict, ...] = ("A", "B", "C")
_MARK = re.compile(r"\[\[([ABC])\]\]")
# With nothing else on its line than signs, such as those of bold type.
_LONE_MARK = re.compile(r"^[^\w\n]*\[\[([ABC])\]\][^\w\n]*$", re.MULTILINE)
_THOUGHT, _THOUGHT_END = "<think>", "</think>"


def read_verdict(text: str, *, refused: bool = False, is_cut: bool = False) -> Verdict:
    """The verdict that a judge's text names.

    What a reasoning model wrote before its last `</think>`, or behind a `<think>` that it did not
    end, does not count.

    Args:
        text: of the judge alone, without the prompt.
        refused: whether the endpoint says that the judge refused.
        is_cut: whether it reached the limit of tokens. It may have been thinking still, so that
            only a verdict on a line of its own counts.
    Returns:
        A, B or C if the text has one of [[A]], [[B]] and [[C]], as often as it likes; "unreadable"
        if it has none, or several that differ.
    """
    if refused:
        return "refused"
    said = text.rpartition(_THOUGHT_END)[2].partition(_THOUGHT)[0]
    found = set(_MARK.findall(said))
    if is_cut and not _LONE_MARK.search(said):
        return "unreadable"
    if found == {"A"}:
        return "A"
    if found == {"B"}:
        return "B"
    return "C" if found == {"C"} else "unreadable"
