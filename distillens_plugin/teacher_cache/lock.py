"""Who may write a cache folder: one run at a time, and nobody while others read it."""

from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError


class FolderLock:
    """An advisory lock on a folder, which the system drops when the process ends.

    Attributes:
        exclusive: whether this process may write.
    """

    def __init__(self, folder: Path, where: str) -> None:
        """Takes the folder for writing, or for reading beside others who read it.

        Raises:
            DistillensError: another run is writing it, or this system has no such locks.
        """
        try:
            import fcntl
        except ImportError as error:
            raise DistillensError(
                f"{where}: the teacher cache needs POSIX file locks, which this system lacks; "
                "delete teacher_cache from the recipe"
            ) from error
        self._fcntl: Any = fcntl
        self._file = (folder / "lock").open("a")
        self.exclusive = self._try(fcntl.LOCK_EX)
        if not self.exclusive and not self._try(fcntl.LOCK_SH):
            self.close()
            raise DistillensError(
                f"{where}: another run is filling {folder}; wait for its first epoch to end, or "
                "name another path"
            )

    def _try(self, kind: int) -> bool:
        try:
            self._fcntl.flock(self._file, kind | self._fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def share(self) -> None:
        """Lets others read too, once nothing remains to be written."""
        if self.exclusive:
            self._fcntl.flock(self._file, self._fcntl.LOCK_SH)
            self.exclusive = False

    def close(self) -> None:
        """Gives the lock up."""
        self._file.close()
