"""Where a run stands in a stream, and the way back there on --resume.

The rows that a run has trained on are read and tokenised again, so they can be compared, and the
next one is then the same as without the interruption.
"""

from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from distillens_plugin.data.stream_loader import StreamLoader
from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.storage.kept_state import Standing
from distillens_plugin.storage.main_process import say
from eval_harness.errors import DistillensError


def stream_states(experiment: Experiment) -> list[dict[str, Any]] | None:
    """The state of each process's stream; every process calls it."""
    loader = experiment.box.train_data_loader
    return gather_object([loader.state()]) if isinstance(loader, StreamLoader) else None


def check_stream(experiment: Experiment, standing: Standing, folder: Path) -> None:
    """Reads each process's stream on to where an interrupted run stood.

    Raises:
        DistillensError: on every process, if the rows until there are others than that run's; or
            one of them is malformed.
    """
    loader, accelerator = experiment.box.train_data_loader, experiment.accelerator
    if not isinstance(loader, StreamLoader):
        return
    if standing.stream is None:
        raise DistillensError(
            f"--resume: the state in {folder} does not say where its stream stood; start over with "
            "--overwrite"
        )
    say(accelerator, f"reading the rows of {standing.step} steps again, to go on after them")
    same = loader.read_again(standing.stream[accelerator.process_index])
    if not all(gather_object([same])):
        raise DistillensError(
            f"--resume: the run in {folder} was trained on other rows of the stream than those in "
            f"{loader.dataset.spec.path} now; restore these, or start over with --overwrite"
        )
