"""One run at a time in an output folder, whatever the number of its processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from distillens_plugin.storage.main_process import on_main_process
from eval_harness.shared.files.lock import FolderLock


@contextmanager
def locked_output(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Holds a run's output folder from before the first look at it to the end of the run.

    The main process holds it for all of them.

    Raises:
        DistillensError: on every process, if another run holds it; names its pid and host.
    """
    lock = FolderLock(
        folder,
        where="output_dir",
        remedy="wait for that run to end, or name another folder with --output_dir",
    )
    on_main_process(accelerator, lock.acquire)
    try:
        yield
    finally:
        lock.close()
