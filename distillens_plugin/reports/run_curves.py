"""Numbers over the steps of a run: losses, validation, the schedule, speed and memory."""

from distillens_plugin.reports.run_records import Run
from eval_harness.shared.pages.figures import Figure


def loss_figure(*runs: Run) -> Figure | None:
    """The loss and each of its terms over optimiser steps: on training rows, and on validation."""
    raise NotImplementedError


def validation_figure(*runs: Run) -> Figure | None:
    """Validation loss (nats per response token) and other scores over steps; a ring at the best."""
    raise NotImplementedError


def schedule_figure(*runs: Run) -> Figure | None:
    """Learning rate and gradient norm over steps."""
    raise NotImplementedError


def rates_figure(*runs: Run) -> Figure | None:
    """Tokens a second and peak memory over steps."""
    raise NotImplementedError
