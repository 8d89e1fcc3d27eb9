"""A folder for files on their way into the cache; those of killed runs are removed."""

from pathlib import Path

from distillens_plugin.storage.locked_folder import LockedFolder

_PREFIX = ".states-"


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
        self._locked = LockedFolder(beside, _PREFIX)
        self.folder = self._locked.folder
        others = self._locked.num_others
        name = f"vllm.log.{self.folder.name.removeprefix(_PREFIX)}" if others else "vllm.log"
        self.log = beside / name

    def close(self) -> None:
        """Removes the folder and what is in it."""
        self._locked.close()
