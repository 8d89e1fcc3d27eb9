"""The folder of a cache: who may write to it, and the one fingerprint that it has."""

import contextlib
import os
import tempfile
from pathlib import Path

from distillens_plugin.teacher_cache.fingerprint import FINGERPRINT, read_fingerprint
from eval_harness.errors import DistillensError
from eval_harness.shared.files.lock import FolderLock

# What may lie there before the first shard, beside a fingerprint: locks, the beginning of a
# fingerprint that a killed process wrote, and the files of an engine that was about to fill it.
_OWN = ("lock", f".{FINGERPRINT}.", ".states-", "vllm.log")


def open_folder(folder: Path, where: str, *, remedy: str, patience_s: float = 0.0) -> FolderLock:
    """Makes the folder if need be and locks it: alone, or else beside others who share it.

    Args:
        where: the recipe's key, for errors.
        remedy: what to do if somebody holds it alone.
        patience_s: how long to wait for them.
    Raises:
        DistillensError: it is held alone, cannot be written, or is somebody's other folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder, where)
        lock = FolderLock(
            folder, name="lock", where=f"{where}.path", remedy=remedy, patience_s=patience_s
        )
        lock.acquire(or_share=True)
    except OSError as error:
        raise DistillensError(
            f"{where}.path: cannot write to {folder} ({error.strerror}); name another path"
        ) from error
    return lock


def owner_of(folder: Path) -> object | None:
    """What the rows of a folder are of: its fingerprint, or None if it has none, or has no rows.

    A fill or a run that fails before its first row leaves a fingerprint that binds nobody.
    """
    stored = read_fingerprint(folder)
    return None if _is_leftover(folder, stored) else stored


def forget_leftover(folder: Path) -> None:
    """Removes a fingerprint without rows.

    Only for who holds the folder alone: others who share it may be about to store theirs.
    """
    if owner_of(folder) is not None or not (folder / FINGERPRINT).exists():
        return
    # Rows that another machine has just stored: a network file system lists them late, but anew
    # after a change of our own.
    with tempfile.NamedTemporaryFile(prefix=f".{FINGERPRINT}.", dir=folder):
        if owner_of(folder) is None:
            (folder / FINGERPRINT).unlink(missing_ok=True)


def _is_leftover(folder: Path, stored: object) -> bool:
    # A run's folder has a fingerprint.json too, and a later version's may count its rows otherwise.
    if not isinstance(stored, dict) or "states" not in stored or stored.get("format") not in (1, 2):
        return False
    return not any(_is_foreign(path) for path in folder.iterdir())


def write_fingerprint(folder: Path, content: str) -> object:
    """Gives the folder its fingerprint, unless another process has just done so.

    Returns:
        The fingerprint that it has now, to be compared.
    """
    handle, name = tempfile.mkstemp(prefix=f".{FINGERPRINT}.", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(name, 0o644)
    try:
        # Unlike a renaming, a link never replaces what is there.
        with contextlib.suppress(FileExistsError):
            os.link(name, folder / FINGERPRINT)
    except OSError:
        # Some network and FUSE file systems have no links.
        os.replace(name, folder / FINGERPRINT)
    finally:
        Path(name).unlink(missing_ok=True)
    return read_fingerprint(folder)


def _refuse_foreign(folder: Path, where: str) -> None:
    """A folder with somebody's files in it is not a cache: never write among them."""
    if (folder / FINGERPRINT).exists():
        return
    foreign = [path.name for path in folder.iterdir() if _is_foreign(path)]
    if foreign:
        raise DistillensError(
            f"{where}.path: {folder} is not a teacher cache (it holds {sorted(foreign)[0]}); name "
            "an empty or a new folder"
        )


def _is_foreign(path: Path) -> bool:
    own = path.name == FINGERPRINT or path.name.startswith(_OWN)
    return not own and not path.match("shard-*.partial")
