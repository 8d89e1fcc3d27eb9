"""A folder replaced so that its name always leads to a whole one, old or new.

Linux exchanges two names in one step (renameat2 with RENAME_EXCHANGE), if the file system can.
Elsewhere it takes two renames. Between them the old folder is set aside as `.<name>.replaced`;
signals are deferred for that moment, any exception puts the folder back, and `recover` does so
after a kill.

Beside a folder `best` there may be, while it is written or after a kill:

    .best.partial      what is being written, or what was just replaced
    .best.replaced     what was set aside between two renames
"""

import ctypes
import errno
import functools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from eval_harness.shared.program.signals import deferred_signals

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# Errors of a kernel or file system without exchanges.
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def partial_of(folder: Path) -> Path:
    """Where the folder's replacement is written."""
    return folder.with_name(f".{folder.name}.partial")


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def replace_folder(partial: Path, folder: Path, *, keep: Path | None = None) -> None:
    """Puts `partial`, a complete folder, in the place of `folder`.

    Args:
        partial: on the same file system; its content is made durable first.
        folder: the name that `partial` gets.
        keep: where the old `folder` goes, replacing what is there; None removes it.
    Raises:
        OSError: it failed; `folder` is then as it was.
    """
    sync_folder(partial)
    if not folder.exists():
        put_back(folder)
    if not folder.exists():
        os.rename(partial, folder)
    elif exchange(partial, folder):
        _settle(partial, keep)
    else:
        _replace_by_two_renames(partial, folder, keep)
    _sync(folder.parent)


def _replace_by_two_renames(partial: Path, folder: Path, keep: Path | None) -> None:
    replaced = _aside(folder)
    remove(replaced)
    try:
        with deferred_signals():
            os.rename(folder, replaced)
            os.rename(partial, folder)
    except BaseException:
        put_back(folder)
        raise
    _settle(replaced, keep)


def _settle(old: Path, keep: Path | None) -> None:
    """Keeps the replaced folder, or removes it; `recover` removes what a failure leaves."""
    if keep is not None:
        replace_folder(old, keep)
    else:
        remove(old)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step.

    Returns:
        False if this system has no exchange; nothing has changed then.
    Raises:
        OSError: the exchange failed.
    """
    rename = _renameat2()
    if rename is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


@functools.cache
def _renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    # An older C library has no such function.
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        number, text = ctypes.c_int, ctypes.c_char_p
        function.argtypes = [number, text, number, text, ctypes.c_uint]
    return function


def put_back(folder: Path) -> bool:
    """Restores a folder that was set aside when something ended between the two renames."""
    replaced = _aside(folder)
    if folder.exists() or not replaced.exists():
        return False
    os.rename(replaced, folder)
    return True


def recover(folder: Path) -> bool:
    """Repairs a folder that a killed process was replacing, and removes what it left beside it.

    Only for the one process that may write there.

    Returns:
        Whether the folder had been set aside.
    """
    came_back = put_back(folder)
    for left in (partial_of(folder), _aside(folder)):
        remove(left)
    return came_back


def remove(path: Path) -> None:
    """Removes a folder, or a link to one, as far as possible."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes names and contents durable: a power cut must not leave a whole name on torn files.

    Raises:
        OSError: the disk does not take them; some report that they are full only here.
    """
    paths = sorted(folder.rglob("*"))
    for path in [path for path in paths if path.is_file()]:
        _sync(path)
    for path in [*(path for path in paths if path.is_dir()), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no fsync, or none for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
