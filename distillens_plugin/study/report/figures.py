"""The report's own figures: validation loss over training, scores by seed, time and memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distillens_plugin.study.report.results import Cost, Curve
from distillens_plugin.study.report.table import Cell
from eval_harness.shared.pages.figures import Figure, axes, finish
from eval_harness.shared.pages.palette import SERIES

_STYLES = ("-", "--", ":", "-.")


def plot_curves(stem: str, curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Validation loss over optimiser steps and over training time; the mean over seeds, and their
    range as a band.

    Args:
        stem: of the figure's files.
        curves: label -> one curve for each seed.
    """
    figure, (panels,) = axes(1, 2, size=(9.6, 3.8))
    for row, (label, runs) in enumerate(curves.items()):
        # A run that stopped early or validated at other steps cannot be averaged with the others.
        runs = [run for run in runs if run.steps == runs[0].steps]
        losses = np.array([run.losses for run in runs])
        pace = float(np.mean([run.seconds_per_step for run in runs]))
        for panel, scale in zip(panels, (1.0, pace), strict=True):
            x = np.array(runs[0].steps) * scale
            (line,) = panel.plot(x, losses.mean(0), label=label, marker=".", **_style(row))
            panel.fill_between(x, losses.min(0), losses.max(0), alpha=0.15, color=line.get_color())
    for panel, name in zip(panels, ("optimiser steps", "seconds of training"), strict=True):
        panel.set_xlabel(name)
        # An untrained model's loss would squeeze everything else into a thin band.
        top = [loss for runs in curves.values() for run in runs for loss in run.losses[1:]]
        if top:
            span = max(top) - min(top)
            panel.set_ylim(min(top) - 0.08 * span - 0.01, max(top) + 0.15 * span + 0.01)
    panels[0].set_ylabel("validation loss (nats per response token)")
    panels[1].legend(fontsize=8)
    return finish(
        figure,
        name=stem,
        title="Validation loss over training",
        caption="Each line is a method's mean over training seeds, its band their range; to the "
        "left by steps, to the right by time: a method that costs more per step moves right.",
        alt=f"Validation loss over training of {', '.join(curves)}",
    )


def plot_seeds(stem: str, title: str, axis: str, cells: Mapping[str, Cell]) -> Figure:
    """Each method's mean and interval, and the score of every training seed as a small mark.

    Args:
        stem: of the figure's files.
        axis: what the numbers are.
        cells: by label.
    """
    figure, panels = axes(1, 1, size=(6.6, 0.9 + 0.42 * len(cells)))
    panel = panels[0][0]
    for row, cell in enumerate(cells.values()):
        colour = SERIES[row % len(SERIES)]
        if cell.interval is not None:
            panel.plot(cell.interval, [row, row], color=colour, linewidth=2)
        panel.scatter([cell.mean], [row], color=colour, s=36, zorder=3)
        panel.scatter(
            list(cell.by_seed.values()),
            [row + 0.22] * len(cell.by_seed),
            facecolors="none",
            edgecolors=colour,
            s=14,
            linewidths=0.8,
        )
    panel.set_yticks(range(len(cells)), list(cells))
    panel.set_ylim(len(cells) - 0.4, -0.6)
    panel.set_xlabel(axis)
    panel.grid(False, axis="y")
    told = ", ".join(f"{label} {cell.mean:.3g}" for label, cell in cells.items())
    return finish(
        figure,
        name=stem,
        title=title,
        caption="Dot: mean; line: 95 % interval; rings: training seeds. Rings that lie further "
        "apart than the dots say that the seed moves the score more than the method.",
        alt=f"{title}: {told}",
    )


def plot_costs(stem: str, title: str, costs: Mapping[str, Cost]) -> Figure:
    """Seconds of training and peak memory of each method."""
    figure, (panels,) = axes(1, 2, size=(9.0, 0.9 + 0.36 * len(costs)))
    values = (
        [cost.train_seconds for cost in costs.values()],
        [cost.peak_bytes / 2**20 for cost in costs.values()],
    )
    for panel, numbers, name in zip(
        panels, values, ("seconds of training", "peak memory (MiB)"), strict=True
    ):
        panel.barh(range(len(costs)), numbers, color=SERIES[0], height=0.6)
        panel.set_yticks(range(len(costs)), list(costs))
        panel.invert_yaxis()
        panel.set_xlabel(name)
        panel.grid(False, axis="y")
    panels[1].tick_params(labelleft=False)
    told = ", ".join(f"{label} {cost.train_seconds:.0f} s" for label, cost in costs.items())
    return finish(
        figure,
        name=stem,
        title=title,
        caption="Mean time of the training seeds and the most memory that one of them took, on the "
        "machine of the study; shorter bars are cheaper.",
        alt=f"{title}: {told}",
    )


def _style(row: int) -> dict[str, Any]:
    return {
        "color": SERIES[row % len(SERIES)],
        "linestyle": _STYLES[row // len(SERIES) % len(_STYLES)],
        "linewidth": 1.4,
    }
