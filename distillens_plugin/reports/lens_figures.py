"""Figures of what the lens reads, from arrays, for pages and notebooks.

    from distillens_plugin import layer_statistics
    from distillens_plugin.reports.lens_figures import plot_layer_statistics
    plot_layer_statistics({"final": layer_statistics(model, batches, norm="final")})

Each returns a matplotlib figure, which a notebook shows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distillens_plugin.lens_maps.matrix import LayerMatrix
from distillens_plugin.lens_maps.statistics import LayerStatistics
from distillens_plugin.lens_maps.tokens import TokenTable
from distillens_plugin.reports.lens_tokens import shown_token
from distillens_plugin.reports.lens_words import READINGS
from eval_harness.shared.pages.figures import axes
from eval_harness.shared.pages.palette import SEQUENTIAL, SERIES, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {
    "entropy": "entropy (nats)",
    "divergence_to_final": "KL from the final layer (nats)",
    "true_rank": "median rank of the true token",
    "top1": "true token is first (share)",
}
_DASHES = ("-", "--", ":")
_MARKERS = ("o", "s", "D")


def plot_layer_statistics(statistics: Mapping[str, LayerStatistics]) -> "Figure":
    """Four panels over the layers: entropy, KL from the final layer, rank and share of the truth.

    Args:
        statistics: a line for each, by its name: identity, final, tuned or any other.
    """
    figure, panels = axes(2, 2, size=(7.4, 5.2))
    for panel, (name, label) in zip((*panels[0], *panels[1]), _PANELS.items(), strict=True):
        for number, (way, each) in enumerate(statistics.items()):
            panel.plot(
                list(each.layers),
                np.asarray(getattr(each, name), dtype=float),
                _DASHES[number % len(_DASHES)],
                color=SERIES[number % len(SERIES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=3.5,
                label=READINGS.get(way, way),
            )
        panel.set_ylabel(label)
        panel.set_xlabel("layer (0: embeddings)")
        _whole_numbers(panel)
        if name == "true_rank":
            _ranks(panel)
        else:
            panel.set_ylim(bottom=0)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def plot_layer_matrix(
    matrix: LayerMatrix,
    marked: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    *,
    labels: tuple[str, str] = ("student layer", "teacher layer"),
) -> "Figure":
    """The divergence of every student layer from every teacher layer; darker is closer.

    Args:
        marked: (student layer, teacher layer) pairs by the name of their set: stars; of two sets,
            the first gets rings.
        labels: of rows and columns.
    """
    values = np.asarray(matrix.values, dtype=float)
    num_rows, num_columns = values.shape
    size = min(9.5, 2.4 + 0.42 * num_columns), min(9.5, 1.5 + 0.36 * num_rows)
    figure, panels = axes(1, 1, size=size)
    panel = panels[0][0]
    image = panel.imshow(values, cmap=SEQUENTIAL, origin="lower", aspect="auto")
    panel.grid(False)
    ours, theirs = list(matrix.student_layers), list(matrix.teacher_layers)
    _every(panel.set_xticks, theirs)
    _every(panel.set_yticks, ours)
    panel.set_xlabel(labels[1])
    panel.set_ylabel(labels[0])
    # Markers and their areas; a star fits into a ring.
    signs = (("o", 90.0), ("*", 28.0))
    for number, (name, pairs) in enumerate((marked or {}).items()):
        rows, columns = zip(*((ours.index(a), theirs.index(b)) for a, b in pairs), strict=True)
        inks = [_ink(values[place], values) for place in zip(rows, columns, strict=True)]
        sign, area = signs[min(number, 1)] if len(marked or {}) > 1 else signs[1]
        panel.scatter(
            columns, rows, area, marker=sign, facecolors="none", edgecolors=inks, label=name
        )
    figure.colorbar(image, ax=panel, label=f"{matrix.divergence.upper()} (nats)")
    return figure


def plot_tokens(table: TokenTable, *, most_positions: int = 16) -> "Figure":
    """The most probable token of each layer at each position, the last layer on top.

    Colour: its probability; a frame: it is the token that comes next, which the top line shows.

    Args:
        most_positions: that are drawn, from the first.
    """
    count = min(most_positions, len(table.positions))
    top = np.asarray(table.top_probabilities, dtype=float)[:, :count, 0]
    figure, panels = axes(1, 1, size=(1.4 + 0.92 * count, 1.5 + 0.3 * len(table.layers)))
    panel = panels[0][0]
    image = panel.imshow(top, cmap=SEQUENTIAL, origin="lower", aspect="auto", vmin=0, vmax=1)
    panel.grid(False)
    for layer, place in np.ndindex(top.shape):
        text = shown_token(table.top_tokens[layer][place][0], 10)
        _, ink = shade(float(top[layer, place]))
        right = int(table.true_rank[layer, place]) == 1
        frame = {"boxstyle": "round,pad=0.15", "fill": False, "edgecolor": ink} if right else None
        panel.text(
            place, layer, text, ha="center", va="center", color=ink, fontsize=7.5, bbox=frame
        )
    panel.set_yticks(range(len(table.layers)), [str(layer) for layer in table.layers])
    panel.set_xticks(range(count), [shown_token(token, 10) for token in table.next_tokens[:count]])
    panel.xaxis.tick_top()
    panel.xaxis.set_label_position("top")
    panel.set_xlabel("what comes next in the text")
    panel.set_ylabel("layer")
    figure.colorbar(image, ax=panel, label="probability of the shown token")
    return figure


def _every(set_ticks: Callable[[Sequence[int], Sequence[str]], object], layers: list[int]) -> None:
    """Ticks that do not run into one another."""
    step = max(1, -(-len(layers) // 24))
    set_ticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])


def _ink(value: float, values: NDArray[np.float64]) -> str:
    """What can be seen on the colour of a value."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return shade((value - low) / (high - low) if high > low else 0.5)[1]


def _ranks(panel: "Axes") -> None:
    """A logarithmic scale from the best rank, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.set_yscale("log")
    panel.set_ylim(bottom=0.9)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=8))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _whole_numbers(panel: "Axes") -> None:
    """There is no layer 1.5."""
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
