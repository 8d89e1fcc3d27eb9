"""Did-you-mean: the names nearest to one that is not known."""

import difflib
from collections.abc import Iterable


def near_names(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """ "; did you mean 'a' or 'b'?", or "" where nothing is near."""
    candidates = [str(candidate) for candidate in known]
    found = difflib.get_close_matches(name, candidates, n=most, cutoff=0.5)
    if not found:
        return ""
    return f"; did you mean {' or '.join(repr(candidate) for candidate in found)}?"
