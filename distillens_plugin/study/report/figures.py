"""The report's own figures, as PNG bytes: validation loss over training, scores by seed.

Needs matplotlib (the `report` extra), as eval_harness.report.plots does, whose look they share.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distillens_plugin.study.report.results import Cost, Curve
from distillens_plugin.study.report.table import Cell

# Okabe and Ito's colours can be told apart with every kind of colour blindness.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")


def plot_curves(curves: Mapping[str, Sequence[Curve]]) -> bytes:
    """Validation loss over optimiser steps and over training time; the mean over seeds, and their
    range as a band.

    Args:
        curves: label -> one curve for each seed.
    """
    figure, panels = _figure(width=10.5, height=3.9, columns=2)
    for row, (label, runs) in enumerate(curves.items()):
        # A run that stopped early or validated at other steps cannot be averaged with the others.
        runs = [run for run in runs if run.steps == runs[0].steps]
        losses = np.array([run.losses for run in runs])
        pace = float(np.mean([run.seconds_per_step for run in runs]))
        for axes, scale in zip(panels, (1.0, pace), strict=True):
            x = np.array(runs[0].steps) * scale
            (line,) = axes.plot(x, losses.mean(0), label=_plain(label), marker=".", **_style(row))
            axes.fill_between(x, losses.min(0), losses.max(0), alpha=0.15, color=line.get_color())
    for axes, name in zip(panels, ("optimiser steps", "seconds of training"), strict=True):
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
        # An untrained model's loss would squeeze everything else into a thin band.
        top = [loss for runs in curves.values() for run in runs for loss in run.losses[1:]]
        if top:
            span = max(top) - min(top)
            axes.set_ylim(min(top) - 0.08 * span - 0.01, max(top) + 0.15 * span + 0.01)
    panels[0].set_ylabel("validation loss (nats per response token)")
    panels[1].legend(fontsize=8)
    return _png(figure)


def plot_seeds(title: str, axis: str, cells: Mapping[str, Cell]) -> bytes:
    """Each method's mean and interval, and the score of every training seed as a small mark.

    Args:
        axis: what the numbers are.
        cells: by label.
    """
    figure, (axes,) = _figure(width=7.2, height=1.1 + 0.45 * len(cells), columns=1)
    for row, cell in enumerate(cells.values()):
        colour = _COLOURS[row % len(_COLOURS)]
        if cell.interval is not None:
            axes.plot(cell.interval, [row, row], color=colour, linewidth=2)
        axes.scatter([cell.mean], [row], color=colour, s=36, zorder=3)
        axes.scatter(
            list(cell.by_seed.values()),
            [row + 0.22] * len(cell.by_seed),
            facecolors="none",
            edgecolors=colour,
            s=14,
            linewidths=0.8,
        )
    axes.set_yticks(range(len(cells)), [_plain(label) for label in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.set_xlabel(axis)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(_plain(title), fontsize=10, loc="left")
    return _png(figure)


def plot_costs(costs: Mapping[str, Cost]) -> bytes:
    """Seconds of training and peak memory of each method."""
    figure, panels = _figure(width=10.5, height=1.1 + 0.4 * len(costs), columns=2)
    labels = [_plain(label) for label in costs]
    values = (
        [cost.train_seconds for cost in costs.values()],
        [cost.peak_bytes / 2**20 for cost in costs.values()],
    )
    for axes, numbers, name in zip(
        panels, values, ("seconds of training", "peak memory, MiB"), strict=True
    ):
        axes.barh(range(len(labels)), numbers, color=_COLOURS[0])
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlabel(name)
        axes.grid(axis="x", alpha=0.3)
    panels[1].tick_params(labelleft=False)
    return _png(figure)


def _style(row: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[row % len(_COLOURS)],
        "linestyle": _STYLES[row // len(_COLOURS) % len(_STYLES)],
        "linewidth": 1.4,
    }


def _figure(*, width: float, height: float, columns: int) -> tuple[Any, Any]:
    # Figure itself, not pyplot: no global state, no display, nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    # Without the software's version the same numbers give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Keeps matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")
