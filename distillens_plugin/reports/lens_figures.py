"""Figures of what the lens reads, from arrays, for pages and notebooks.

    from distillens_plugin import layer_statistics
    from distillens_plugin.reports.lens_figures import plot_layer_statistics
    plot_layer_statistics({"final": layer_statistics(model, batches, norm="final")})

Each returns a matplotlib figure, which a notebook shows.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from eval_harness.shared.pages.figures import axes
from eval_harness.shared.pages.palette import SEQUENTIAL, SERIES

from distillens_plugin.lens_maps.matrix import LayerMatrix
from distillens_plugin.lens_maps.statistics import LayerStatistics
from distillens_plugin.reports.lens_words import READINGS

if TYPE_CHECKING:
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
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def plot_layer_matrix(
    matrix: LayerMatrix, marked: Mapping[str, Sequence[tuple[int, int]]] | None = None
) -> "Figure":
    """The divergence of every student layer from every teacher layer; darker is closer.

    Args:
        marked: (student layer, teacher layer) pairs by the name of their set; at most two sets:
            the first gets rings, the second crosses.
    """
    values = np.asarray(matrix.values, dtype=float)
    num_rows, num_columns = values.shape
    size = (2.2 + 0.42 * num_columns, 1.5 + 0.42 * num_rows)
    figure, panels = axes(1, 1, size=(min(size[0], 9.0), min(size[1], 9.0)))
    panel = panels[0][0]
    image = panel.imshow(values, cmap=SEQUENTIAL, origin="lower", aspect="auto")
    figure.colorbar(image, ax=panel, label=f"{matrix.divergence} (nats)")
    panel.set_xticks(range(num_columns), [str(k) for k in matrix.teacher_layers])
    panel.set_yticks(range(num_rows), [str(k) for k in matrix.student_layers])
    panel.set_xlabel("layer of the columns' model")
    panel.set_ylabel("layer of the rows' model")
    return figure


def _whole_numbers(panel: "Axes") -> None:
    """There is no layer 1.5."""
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
