"""Texts and tables as Markdown."""

import re
from collections.abc import Sequence

from eval_harness.shared.pages.tables import Grid

# A no-break space stays: it holds a number and its interval together.
_SPACES = re.compile(r"[^\S\u00a0]+")


def cell(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = re.sub(r"([\\`*_|<>\[\]#$~])", r"\\\1", _SPACES.sub(" ", text).strip())
    return "---" if text == "---" else escaped


def lines_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table without its title."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(cell, line))} |" for line in lines]


def table(grid: Grid) -> list[str]:
    """A table under its title; the last cell of a marked row is bold."""
    lines = [f"### {cell(grid.title)}", "", *lines_of(grid.header, grid.rows)]
    for index in grid.marked:
        cells = [cell(text) for text in grid.rows[index]]
        cells[-1] = f"**{cells[-1]}**"
        lines[index + 4] = f"| {' | '.join(cells)} |"
    if grid.caption:
        lines += ["", cell(grid.caption)]
    return [*lines, ""]
