"""A folder for files on their way into the cache; those of killed runs are removed."""

import shutil
import tempfile
from pathlib import Path

from eval_harness.errors import DistillensError
from eval_harness.shared.files.lock import FolderLock

_PREFIX = ".states-"


class Scratch:
    """A new folder inside `beside`, which nobody else uses.

    Args:
        beside: made if need be.
    Attributes:
        folder: absolute.
    Raises:
        DistillensError: it cannot be written.
    """

    def __init__(self, beside: Path) -> None:
        _remove_left(beside)
        beside.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside)).absolute()
        self._lock = FolderLock(self.folder)
        self._lock.acquire()

    def close(self) -> None:
        """Removes the folder and what is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _remove_left(beside: Path) -> None:
    for folder in beside.glob(f"{_PREFIX}*"):
        lock = FolderLock(folder)
        try:
            lock.acquire()
        except DistillensError:  # its run is still there
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
