"""What the lens reads layer by layer, before and after: entropy, confidence, layer pairs."""

from distillens_plugin.reports.run_records import Run
from eval_harness.shared.pages.figures import Figure
from eval_harness.shared.pages.heat_map import HeatMap


def pairs_map(run: Run) -> HeatMap | None:
    """Each layer pair's divergence over steps: a row for each pair, a column for each record."""
    raise NotImplementedError


def pairs_figure(run: Run) -> Figure | None:
    """`pairs_map` as a picture."""
    raise NotImplementedError


def entropy_figure(*runs: Run) -> Figure | None:
    """Entropy of each layer's next-token distribution: teacher, student before, student after."""
    raise NotImplementedError


def readout_figure(*runs: Run) -> Figure | None:
    """By layer: divergence from the final layer, and the share of positions it already has right."""
    raise NotImplementedError


def confidence_figure(*runs: Run) -> Figure | None:
    """By layer pair: where the student is surer, or less sure, than the teacher, before and after."""
    raise NotImplementedError
