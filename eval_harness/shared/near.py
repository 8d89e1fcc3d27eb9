"""Did-you-mean: the names nearest to one that is not known."""

import difflib
from collections.abc import Iterable

# A longer text is no slip of a name, and comparing it would take long.
_LONGEST_NAME = 100


def nearest(name: str, known: Iterable[object], *, most: int = 3, cutoff: float = 0.5) -> list[str]:
    """The known names that are like one, the most alike first; [] where none is.

    One that differs only in capitals is the only answer.

    Args:
        most: at most so many.
        cutoff: how much alike, from 0 to 1.
    """
    if len(name) > _LONGEST_NAME:
        return []
    words = [str(word) for word in known]
    same = [word for word in words if word.casefold() == name.casefold()]
    return same[:most] or difflib.get_close_matches(name, words, n=most, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[object], *, most: int = 2, cutoff: float = 0.6) -> str:
    """`did you mean 'a' or 'b'?`, or "" where nothing is near."""
    found = nearest(name, known, most=most, cutoff=cutoff)
    return f"did you mean {' or '.join(repr(word) for word in found)}?" if found else ""


def near_names(name: str, known: Iterable[object], *, most: int = 3) -> str:
    """`; did you mean 'a' or 'b'?`, to end a sentence with, or ""."""
    hint = did_you_mean(name, known, most=most, cutoff=0.5)
    return f"; {hint}" if hint else ""
