"""Whether the processes of all nodes see the output folder that the main process writes to."""

import os
import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from distillens_plugin.storage.main_process import on_main_process
from eval_harness.errors import DistillensError
from eval_harness.shared.files.lock import LOCK_NAME

_POLL_S = 0.2


def check_seen_by_all(folder: Path, accelerator: Accelerator, *, patience_s: float = 10.0) -> None:
    """Refuses a folder on a node's own disk: `--resume` reads the state on every process.

    Every process calls it, while the main process holds the folder's lock. What is compared is that
    lock's text, since a folder of the same name may well be there, from an earlier run.

    Args:
        patience_s: network file systems show a new file to other nodes only after some seconds.
    Raises:
        DistillensError: on every process; names those that do not see the folder.
    """
    if accelerator.num_processes == 1:
        return
    expected = on_main_process(accelerator, lambda: _text(folder))
    deadline = time.monotonic() + patience_s
    while (found := _text(folder)) != expected and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    blind = [process for process, sees in enumerate(gather_object([found == expected])) if not sees]
    if blind:
        shown = ", ".join(map(str, blind[:8])) + (" ..." if len(blind) > 8 else "")
        raise DistillensError(
            f"output_dir: processes {shown} of {accelerator.num_processes} cannot see {folder}, "
            "where the main process writes; name a folder that all nodes share with --output_dir, "
            "or set resumable: false"
        )


def _text(folder: Path) -> bytes | None:
    """The lock file's bytes; None where it is not there."""
    try:
        # Opening the folder makes a network file system ask its server again.
        os.listdir(folder)
        return (folder / LOCK_NAME).read_bytes()
    except OSError:
        return None
