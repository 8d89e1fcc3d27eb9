"""A folder for files on their way into the cache; those of killed runs are removed."""

import shutil
import tempfile
from pathlib import Path

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.lock import FolderLock

_PREFIX = ".states-"
_NUM_TRIES = 20


class Scratch:
    """A new folder inside `beside`, which nobody else uses.

    Args:
        beside: made if need be.
    Attributes:
        folder: absolute.
        log: beside it, for what its user prints; others who are at work there have their own.
    Raises:
        DistillensError: it cannot be written.
        RunFailure: it vanishes again and again.
    """

    def __init__(self, beside: Path) -> None:
        others = _remove_left(beside)
        beside.mkdir(parents=True, exist_ok=True)
        self.folder, self._lock = _new(beside)
        name = f"vllm.log.{self.folder.name.removeprefix(_PREFIX)}" if others else "vllm.log"
        self.log = beside / name

    def close(self) -> None:
        """Removes the folder and what is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _new(beside: Path) -> tuple[Path, FolderLock]:
    """A folder and its lock. One that starts at the same moment may take it for a killed run's."""
    for tries_left in reversed(range(_NUM_TRIES)):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside)).absolute()
        lock = FolderLock(folder)
        try:
            lock.acquire()
        except DistillensError:
            if not tries_left:
                raise
            continue
        if folder.exists():
            return folder, lock
        lock.close()
    raise RunFailure(f"{beside}: another program removes its folders {_PREFIX}*")


def _remove_left(beside: Path) -> int:
    """Removes what killed runs have left; returns how many are still at work."""
    others = 0
    for folder in beside.glob(f"{_PREFIX}*"):
        lock = FolderLock(folder)
        try:
            lock.acquire()
        except DistillensError:  # its run is still there
            others += 1
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
    return others
