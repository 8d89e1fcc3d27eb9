"""Where the student lies for its server: a folder of this run alone, gone when the run ends."""

import os
import tempfile
from pathlib import Path

from distillens_plugin.storage.locked_folder import LockedFolder

# Of no other use: beside it, the system's temporary folder holds what is not ours to remove.
_PREFIX = "distillens-student-"


class WeightsFolder:
    """A folder for the student's weights; those that killed runs have left beside it are removed.

    Args:
        weights_dir: of the recipe; None: the system's temporary folder.
    Attributes:
        student: the model's folder in it, by the path that `weights_dir` gives, whose links may
            lead elsewhere on the server's machine.
    Raises:
        DistillensError: it cannot be written.
    """

    def __init__(self, weights_dir: str | None) -> None:
        beside = tempfile.gettempdir() if weights_dir is None else weights_dir
        self._locked = LockedFolder(Path(beside), _PREFIX)
        if weights_dir is not None:
            # The server may be another user's.
            os.chmod(self._locked.folder, 0o755)
        self.student = self._locked.folder / "student"
