"""The page about a run, or about several side by side: report.html and its figures."""

from collections.abc import Sequence
from pathlib import Path


def write_run_report(folder: Path) -> Path:
    """Writes RUN/report/report.html and RUN/report/figures/ from what the run's folder holds.

    Training calls it at its end, on the main process; `distillens report` while a run goes on.

    Returns:
        The page.
    Raises:
        DistillensError: the folder holds no run, or one of its files is damaged.
        RunFailure: a file cannot be written.
    """
    return write_report([folder])


def write_report(
    folders: Sequence[Path],
    *,
    output_dir: Path | None = None,
    evaluations: Sequence[Path] = (),
) -> Path:
    """Writes the page about one run or several.

    Args:
        output_dir: where report.html goes; default, for one run: its folder `report`.
        evaluations: results of eval-harness, beside those that are found in a run's folder.
    Raises:
        DistillensError: as `write_run_report`; or several runs and no `output_dir`.
    """
    raise NotImplementedError
