"""A matrix of numbers as a heat map: a grid that a reader can point at and walk, and a picture."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from eval_harness.shared.pages.cells import Cell, CellGrid
from eval_harness.shared.pages.figures import Figure, axes, finish
from eval_harness.shared.pages.palette import SEQUENTIAL, gradient, shade

# With more columns numbers no longer fit their cells.
_MOST_WRITTEN = 12


@dataclass(frozen=True)
class HeatMap:
    """Numbers by row and column.

    Attributes:
        name: stem of its files; unique on a page.
        caption: one sentence that says how to read it.
        rows, columns: their names.
        values: [rows][columns], numpy or lists; None or NaN is no value.
        row_label, column_label: what rows and columns are.
        unit: of the values, such as nats; may be empty.
        marked: (row, column) places that get a ring.
        low, high: ends of the scale; default: those of the values.
    """

    name: str
    title: str
    caption: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Any
    row_label: str
    column_label: str
    unit: str
    decimals: int
    marked: Collection[tuple[int, int]] = ()
    low: float | None = None
    high: float | None = None

    def numbers(self) -> list[list[float]]:
        """The values as floats; NaN where there is none."""
        return [
            [math.nan if value is None else float(value) for value in line] for line in self.values
        ]

    def ends(self) -> tuple[float, float]:
        """Low and high end of the scale."""
        known = [value for line in self.numbers() for value in line if math.isfinite(value)]
        low = self.low if self.low is not None else min(known, default=0.0)
        high = self.high if self.high is not None else max(known, default=0.0)
        return low, high

    def grid(self) -> CellGrid:
        """The map as the page's grid."""
        low, high = self.ends()
        cells = [
            [self._cell(row, column, value, low, high) for column, value in enumerate(line)]
            for row, line in enumerate(self.numbers())
        ]
        first, last = (f"{end:.{self.decimals}f} {self.unit}".strip() for end in (low, high))
        return CellGrid(
            self.name,
            self.title,
            self.caption,
            list(self.rows),
            list(self.columns),
            self.row_label,
            self.column_label,
            cells,
            (gradient(), first, last),
        )

    def _cell(self, row: int, column: int, value: float, low: float, high: float) -> Cell:
        place = f"{self.row_label} {self.rows[row]}, {self.column_label} {self.columns[column]}"
        if not math.isfinite(value):
            return Cell("", f"{place}: no value")
        text = f"{value:.{self.decimals}f}"
        is_marked = (row, column) in self.marked
        says = f"{place}: {text} {self.unit}".rstrip() + (" (marked)" if is_marked else "")
        written = len(self.columns) <= _MOST_WRITTEN
        colours = shade(_share(value, low, high))
        return Cell(text if written else "", says, *colours, is_marked)

    def figure(self) -> Figure:
        """The map as a picture."""
        num_rows, num_columns = len(self.rows), len(self.columns)
        size = (min(9.5, 2.2 + 0.42 * num_columns), min(9.5, 1.3 + 0.36 * num_rows))
        drawing, panels = axes(1, 1, size=size)
        panel = panels[0][0]
        low, high = self.ends()
        values = self.numbers()
        image = panel.imshow(values, cmap=SEQUENTIAL, aspect="auto", vmin=low, vmax=high)
        panel.grid(False)
        step = max(1, -(-num_columns // 24))
        panel.set_xticks(range(0, num_columns, step), list(self.columns)[::step])
        panel.set_yticks(range(num_rows), list(self.rows))
        panel.set_xlabel(self.column_label)
        panel.set_ylabel(self.row_label)
        for row, column in self.marked:
            _, ink = shade(_share(values[row][column], low, high))
            panel.plot(column, row, "o", markersize=8, markerfacecolor="none", color=ink)
        drawing.colorbar(image, ax=panel, label=self.unit)
        return finish(
            drawing, name=self.name, title=self.title, caption=self.caption, alt=self._alt()
        )

    def _alt(self) -> str:
        low, high = self.ends()
        return (
            f"{self.title}: {len(self.rows)} x {len(self.columns)} values from "
            f"{low:.{self.decimals}f} to {high:.{self.decimals}f} {self.unit}"
        ).rstrip()


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low and math.isfinite(value) else 0.5
