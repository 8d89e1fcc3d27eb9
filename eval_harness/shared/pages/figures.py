"""Figures drawn by matplotlib: once as PNG, once as SVG that takes the colours of its page."""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError
from eval_harness.shared.pages.palette import INK, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_PNG_DPI = 160
_WIDE = 700  # CSS pixels, 96 an inch
_STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 9.0,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "svg.fonttype": "none",
    **dict.fromkeys(
        (
            *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"),
            *("xtick.color", "ytick.color", "grid.color", "hatch.color"),
        ),
        INK,
    ),
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        name: stem of its files; unique on a page.
        caption: one sentence that says how to read it.
        alt: what it shows, for those who do not see it.
        svg: to be put into a page, text as text; a file of its own as well.
        png: on white.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes

    @property
    def inline(self) -> str:
        """The SVG inside HTML, which knows its namespaces."""
        return re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", self.svg)

    @property
    def is_wide(self) -> bool:
        """Whether half a page is too little for its letters."""
        width = re.search(r"--width: (\d+)px", self.svg)
        return width is not None and int(width[1]) > _WIDE


def require_matplotlib() -> None:
    """Refuses to go on without matplotlib.

    Raises:
        DistillensError: it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DistillensError(
            "figures need matplotlib, which is not installed here; pip install matplotlib"
        ) from error


def axes(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.0, 3.4)
) -> tuple["Drawing", list[list["Axes"]]]:
    """An empty figure in this project's style, and its axes as rows of columns.

    Args:
        size: width and height, inches.
    """
    require_matplotlib()
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure as Drawing

    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=SERIES)}):
        figure = Drawing(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(line) for line in panels]


def finish(figure: "Drawing", *, name: str, title: str, caption: str, alt: str) -> Figure:
    """Draws a figure that is done.

    Args:
        name, title, caption, alt: as `Figure` has them.
    """
    import matplotlib

    tidy(figure)
    picture, drawing = io.BytesIO(), io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(picture, format="png", dpi=_PNG_DPI, facecolor="white")
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None})
    svg = _for_pages(drawing.getvalue(), name, alt)
    return Figure(name, title, caption, alt, svg, picture.getvalue())


def tidy(figure: "Drawing") -> "Drawing":
    """Gives what was drawn by matplotlib's own defaults the style of `axes`; returns the figure."""
    from matplotlib.legend import Legend
    from matplotlib.text import Text

    for panel in figure.axes:
        if title := panel.get_title():
            panel.set_title("")
            panel.set_title(title, loc="left", fontsize=_STYLE["axes.titlesize"], color=INK)
    for legend in figure.findobj(Legend):
        legend.set_frame_on(False)
    for text in figure.findobj(Text):
        # A name such as $x$ is a name.
        text.set_parse_math(False)
        if text.get_color() in ("black", "#000000", "k"):
            text.set_color(INK)
    return figure


def _for_pages(svg: str, name: str, alt: str) -> str:
    """Without a header, with ids of its own, and with the page's font, ink and colours."""
    from xml.sax.saxutils import quoteattr

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", name)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = svg.replace(INK, "currentColor")
    for number, colour in enumerate(SERIES, start=1):
        # Lighter ones on a dark page (style.css).
        svg = svg.replace(colour, f"var(--series-{number}, {colour})")
    svg = re.sub(r"(font: [\d.]+px) [^;\"]+", r"\1 var(--sans, sans-serif)", svg)
    # The page scales it; its own size is the largest.
    width = re.search(r'\bwidth="([\d.]+)pt"', svg)
    size = f"--width: {float(width[1]) * 4 / 3:.0f}px; max-width: var(--width)" if width else ""
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label={quoteattr(alt)} style="{size}"', 1)
