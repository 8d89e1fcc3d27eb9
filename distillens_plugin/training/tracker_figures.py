"""Figures of a run as images in its experiment trackers."""

import io
from pathlib import Path

import numpy as np
from accelerate import Accelerator

# What `SummaryWriter.add_images` is told about [1, height, width, 3].
_LAYOUT = {"tensorboard": {"dataformats": "NHWC"}}


def log_figures(accelerator: Accelerator, folder: Path, *, step: int) -> None:
    """Draws what the run's folder holds so far and gives it to each tracker, on the main process.

    Args:
        step: of the last measurement.
    Raises:
        DistillensError: a file in the folder is damaged.
    """
    # Drawing takes a second to load, which a run without trackers does not spend.
    from distillens_plugin.reports.run_figures import (
        confidence_figure,
        entropy_figure,
        pairs_figure,
    )
    from distillens_plugin.reports.run_records import read_run

    run = read_run(folder)
    figures = (entropy_figure(run), confidence_figure(run), pairs_figure(run))
    images = {f"report/{each.name}": _pixels(each.png)[None] for each in figures if each}
    for tracker in accelerator.trackers:
        tracker.log_images(images, step=step, **_LAYOUT.get(tracker.name, {}))


def _pixels(png: bytes) -> np.ndarray:
    """[height, width, 3] uint8."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
