"""Did-you-mean: the known names nearest to an unknown one."""

import difflib
from collections.abc import Iterable

# A longer text is not a misspelt name, and comparing it would be slow.
_LONGEST_NAME = 100


def nearest(name: str, known: Iterable[object], *, most: int = 3, cutoff: float = 0.5) -> list[str]:
    """The known names most similar to `name`, nearest first; [] if none is close.

    A name that differs only in capitals is returned alone.

    Args:
        most: the largest number of names returned.
        cutoff: least similarity, from 0 to 1.
    """
    if len(name) > _LONGEST_NAME:
        return []
    words = [str(word) for word in known]
    same = [word for word in words if word.casefold() == name.casefold()]
    return same[:most] or difflib.get_close_matches(name, words, n=most, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[object], *, most: int = 2, cutoff: float = 0.6) -> str:
    """`did you mean 'a' or 'b'?`, or "" if no name is close."""
    found = nearest(name, known, most=most, cutoff=cutoff)
    return f"did you mean {' or '.join(repr(word) for word in found)}?" if found else ""


def near_names(name: str, known: Iterable[object], *, most: int = 3) -> str:
    """`; did you mean 'a' or 'b'?` as the end of a sentence, or ""."""
    hint = did_you_mean(name, known, most=most, cutoff=0.5)
    return f"; {hint}" if hint else ""
