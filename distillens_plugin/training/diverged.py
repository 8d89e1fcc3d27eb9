"""diverged.json: a run that ended because its loss was not finite says so, for studies to read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator

from distillens_plugin.storage import run_folder
from eval_harness.errors import NotFinite, RunFailure
from eval_harness.shared.files.atomic import write_json


@contextlib.contextmanager
def noted(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Leaves the note if the block ends so; a run that goes on beyond it removes the note first.

    Raises:
        NotFinite: the block's.
    """
    note = folder / run_folder.DIVERGED
    if accelerator.is_main_process:
        note.unlink(missing_ok=True)
    try:
        yield
    except NotFinite as error:
        if accelerator.is_main_process:
            # What ended the run is told, whether or not there is room for a note.
            with contextlib.suppress(RunFailure):
                write_json(note, {"reason": str(error)})
        raise
