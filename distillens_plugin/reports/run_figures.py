"""Figures of runs, for reports, notebooks and experiment trackers.

    from distillens_plugin.reports.run_figures import entropy_figure
    from distillens_plugin.reports.run_records import read_run
    figure = entropy_figure(read_run(Path("runs/quickstart")))   # figure.svg, figure.png

Each takes one run, or several to lay over one another, and gives None where they have none of its
numbers. A run may still go on: the figure shows how far it has come.
"""

from distillens_plugin.reports.run_curves import (
    loss_figure,
    rates_figure,
    schedule_figure,
    validation_figure,
)
from distillens_plugin.reports.run_layers import (
    confidence_figure,
    entropy_figure,
    pairs_figure,
    readout_figure,
)

__all__ = [
    "confidence_figure",
    "entropy_figure",
    "loss_figure",
    "pairs_figure",
    "rates_figure",
    "readout_figure",
    "schedule_figure",
    "validation_figure",
]
