"""Tables of coloured cells, each with a line about itself: heat maps, and tables of tokens."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One coloured cell.

    Attributes:
        text: in the cell; may be empty.
        says: all about it in a line, shown when it is pointed at or walked to.
        colour, ink: of the cell and of its text, "#rrggbb"; empty: none.
    """

    text: str
    says: str
    colour: str = ""
    ink: str = ""
    is_marked: bool = False


@dataclass(frozen=True)
class CellGrid:
    """What the macro `cells` of parts.html.j2 draws.

    Attributes:
        caption: one sentence that says how to read it.
        rows, columns: their names; `cells` has a list for each row.
        scale: a CSS gradient, and the texts at its ends; empty: there is no legend.
        is_text: cells hold words rather than numbers.
    """

    name: str
    title: str
    caption: str
    rows: list[str]
    columns: list[str]
    row_label: str
    column_label: str
    cells: list[list[Cell]]
    scale: tuple[str, str, str] | None = None
    is_text: bool = False
