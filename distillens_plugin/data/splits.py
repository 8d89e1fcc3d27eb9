"""Splits and their slices, as the `datasets` library writes them: `train[100:]`, `train[:10%]`."""

import re
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import chain, islice
from typing import TypeVar

from eval_harness.errors import DistillensError

# Both ends are numbers of rows, or both are percent.
_SLICE = re.compile(
    r"(\w+(?:\.\w+)*)(?:\[(-?\d{1,18})?:(-?\d{1,18})?\]|\[(-?\d{1,3}%)?:(-?\d{1,3}%)?\])?"
)

Item = TypeVar("Item")


def names_of(split: str) -> list[str]:
    """The splits in a text: train and test of `train[:10%]+test`; the text if it is no such one."""
    parts = _parts(split)
    return [split] if parts is None else [part[1] for part in parts]


def sliced(
    split: str, load: Callable[[str], Iterable[Item]], where: str, *, streaming: bool
) -> Iterator[Item]:
    """The rows of `train`, of a slice of it, or of several with + between them.

    Args:
        load: gives the rows of a split by its name alone; any other text is for it to refuse.
        where: the section's YAML path, for errors.
        streaming: rows that have no length are not to be held in memory.
    Raises:
        DistillensError: a stream's rows would have to be counted first.
    """
    parts = _parts(split)
    if parts is None:
        return iter(load(split))
    # All at once, so that a name is refused before the first row is read.
    slices = [_slice(part, load(part[1]), where, streaming) for part in parts]
    return chain.from_iterable(slices)


def _parts(split: str) -> list[re.Match[str]] | None:
    found = [_SLICE.fullmatch(part.strip()) for part in split.split("+")]
    parts = [part for part in found if part is not None]
    return parts if len(parts) == len(found) else None


def _slice(
    part: re.Match[str], rows: Iterable[Item], where: str, streaming: bool
) -> Iterator[Item]:
    start, end = part[2] or part[4], part[3] or part[5]
    bounds = [text for text in (start, end) if text]
    if not any(text.startswith("-") or text.endswith("%") for text in bounds):
        return islice(rows, int(start or 0), int(end) if end else None)
    if not isinstance(rows, Sized):
        if streaming:
            what = "counts from the end" if "-" in part[0] else "is a share of all rows"
            raise DistillensError(
                f"{where}.split: found {part[0]}, which {what}, but a stream is read from its "
                "start; count from the start, or delete streaming"
            )
        rows = list(rows)
    number = len(rows)
    first, last, _ = slice(_place(start, number), _place(end, number)).indices(number)
    return islice(rows, first, max(first, last))


def _place(bound: str | None, number: int) -> int | None:
    """Of `number` rows; percent are rounded as `datasets` rounds them."""
    if not bound:
        return None
    return round(int(bound[:-1]) * number / 100) if bound.endswith("%") else int(bound)
