"""A folder that lives as long as its user; those that killed ones have left are removed."""

import shutil
import tempfile
import weakref
from pathlib import Path

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.lock import FolderLock

_NUM_TRIES = 20


class LockedFolder:
    """A new folder inside `beside`, which nobody else uses; gone with this object or its process.

    Args:
        beside: made if need be.
        prefix: of its name, and of this use alone: unlocked folders with it are removed.
    Attributes:
        folder: absolute, as `beside` was named: links are not followed.
        num_others: folders of the same use that others hold.
    Raises:
        DistillensError: it cannot be written.
        RunFailure: it vanishes again and again.
    """

    def __init__(self, beside: Path, prefix: str) -> None:
        try:
            beside.mkdir(parents=True, exist_ok=True)
            self.folder, lock = _new(beside, prefix)
        except OSError as error:
            raise DistillensError(
                f"{beside}: cannot be written ({error.strerror}); name another folder"
            ) from error
        self.num_others = _remove_left(self.folder, prefix)
        self._remove = weakref.finalize(self, _remove, self.folder, lock)

    def close(self) -> None:
        """Removes the folder and what is in it."""
        self._remove()


def _remove(folder: Path, lock: FolderLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def _new(beside: Path, prefix: str) -> tuple[Path, FolderLock]:
    """A folder and its lock. One that starts at the same moment may take it for a killed run's."""
    for tries_left in reversed(range(_NUM_TRIES)):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=beside)).absolute()
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
    raise RunFailure(f"{beside}: another program removes its folders {prefix}*")


def _remove_left(own: Path, prefix: str) -> int:
    """Removes what killed runs have left; returns how many are still at work."""
    others = [path for path in own.parent.glob(f"{prefix}*") if path.name != own.name]
    others = [path for path in others if path.is_dir() and not path.is_symlink()]
    if not others or not _is_held(own):
        # Without locks nobody can tell whose run has ended.
        return len(others)
    num_held = 0
    for folder in others:
        lock = FolderLock(folder, say=lambda _: None)
        try:
            lock.acquire()
        except DistillensError:  # its run is still there, or is somebody else's
            num_held += 1
            continue
        _remove(folder, lock)
    return num_held


def _is_held(own: Path) -> bool:
    """Whether a lock that this process has keeps others off, as on most file systems."""
    try:
        with FolderLock(own, say=lambda _: None):
            return False
    except DistillensError:
        return True
