"""Tables of texts, numbers to the right."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(
    r"^(?:[+\-−]?[\d.,\u00a0]*\d[\d.,\u00a0]*(?:e[+-]?\d+)?(?:\s?(?:%|\[.*\]|\(.*\)))?"
    r"|\[[+\-−\d.,\s]+\])$"
)
_NOTHING = ("", "-", "N/A", "---")


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        marked: numbers of the rows that stand out, 0 the first.
        caption: one sentence that says how to read it; may be empty.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: tuple[int, ...] = ()
    caption: str = ""

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds numbers, perhaps with an interval or a percent sign."""
        columns = range(len(self.header))
        return [self._is_numeric([row[i] for row in self.rows if i < len(row)]) for i in columns]

    @staticmethod
    def _is_numeric(cells: Sequence[str]) -> bool:
        told = [cell.strip() for cell in cells if cell.strip() not in _NOTHING]
        return bool(told) and all(_NUMBER.match(cell) for cell in told)
