"""One run at a time in an output folder."""

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError, RunFailure

LOCK_NAME = ".lock"
# Errors of file systems without any locks (some network and FUSE file systems).
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_POLL_S = 0.1
_NUM_TRIES = 100


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class FolderLock:
    """A lock file that names its holder's pid and host, locked by the operating system.

    The system frees the lock when its holder ends, however it ends. A file left by a killed run is
    taken over; if that run was on another host (a shared file system), a line says so. The file is
    removed when the lock is released.

    Attributes:
        exclusive: whether nobody else holds the folder, so that it may be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = LOCK_NAME,
        where: str = "",
        remedy: str = "wait for it, or give another output path",
        patience_s: float = 0.0,
        for_children: bool = False,
        say: Callable[[str], None] = _say,
    ) -> None:
        """Takes nothing yet.

        Args:
            folder: made when the lock is taken; removed with the lock if it is still empty then.
            where: key or flag that names the folder, for messages.
            remedy: what the user can do about a folder in use.
            patience_s: how long to wait for a holder that is about to end.
            for_children: child processes that are given `descriptor` hold the lock too, even after
                this process ends. Otherwise forked workers never hold it.
            say: prints a line.
        """
        self._folder = folder
        self._path = (folder / name).absolute()
        self._where = f"{where}: " if where else ""
        self._remedy = remedy
        self._patience_s = patience_s
        self._for_children = for_children
        self._say = say
        self._made: list[Path] = []
        self._descriptor: int | None = None
        self.exclusive = False

    @property
    def descriptor(self) -> int | None:
        """Of the lock file; None while the lock is not held."""
        return self._descriptor

    def acquire(self, *, or_share: bool = False) -> None:
        """Takes the lock.

        Args:
            or_share: if others are only reading, read beside them (see `share`).
        Raises:
            DistillensError: another run holds the folder (names its pid and host), or the folder
                cannot be written.
            RunFailure: locking failed for another reason.
        """
        deadline = time.monotonic() + self._patience_s
        while self._descriptor is None:
            descriptor = self._open()
            try:
                self._try(descriptor, or_share=or_share, last=time.monotonic() >= deadline)
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        if self.exclusive:
            self._note_holder()
        if not self._for_children:
            _close_in_forked_children(self)

    def share(self) -> None:
        """Lets others read too, once nothing remains to be written."""
        if self.exclusive and self._descriptor is not None:
            import fcntl

            os.ftruncate(self._descriptor, 0)
            with contextlib.suppress(OSError):  # the file system may have no locks
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            self.exclusive = False

    def close(self) -> None:
        """Releases the lock; does nothing if it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        _OPEN.discard(self)
        if self.exclusive:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._remove_empty()
        os.close(descriptor)
        self.exclusive = False

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> int:
        for tries_left in reversed(range(_NUM_TRIES)):
            try:
                self._make_folder()
                # Reading too: NFS refuses a shared lock on a file that is open for writing alone.
                return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except (OSError, ValueError) as error:  # ValueError: a NUL in the name
                if isinstance(error, FileNotFoundError) and tries_left:
                    # Another run has just ended and removed the folder that it had made.
                    continue
                name = str(self._folder)[:200]
                if os.path.isfile(self._folder):
                    raise DistillensError(
                        f"{self._where}{name} is a file; name a folder"
                    ) from error
                reason = error.strerror if isinstance(error, OSError) else error
                raise DistillensError(
                    f"{self._where}cannot write to {name} ({reason}); name another folder"
                ) from error
        raise AssertionError("the last try returns or raises")

    def _make_folder(self) -> None:
        missing = []
        folder = self._folder.absolute()
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                self._made.append(folder)

    def _remove_empty(self) -> None:
        while self._made:
            with contextlib.suppress(OSError):
                self._made.pop().rmdir()

    def _try(self, descriptor: int, *, or_share: bool, last: bool) -> None:
        import fcntl

        exclusive = self._lock(descriptor, fcntl.LOCK_EX)
        if not exclusive and not (or_share and self._lock(descriptor, fcntl.LOCK_SH)):
            if last:
                self._refuse(*_holder(descriptor))
            time.sleep(_POLL_S)
            return
        # A holder removes the file when it ends; this lock may be on a file that is gone.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == os.fstat(descriptor).st_ino:
                self._descriptor, self.exclusive = descriptor, exclusive

    def _lock(self, descriptor: int, kind: int) -> bool:
        import fcntl

        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                self._say(
                    f"{self._folder}: this file system has no locks ({error.strerror}), so nothing "
                    "prevents a second run here"
                )
                return True
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise RunFailure(f"{self._path}: cannot be locked: {error.strerror}") from error
            return False
        return True

    def _note_holder(self) -> None:
        assert self._descriptor is not None
        pid, host = _holder(self._descriptor)
        here = socket.gethostname()
        if host not in (None, here):
            self._say(
                f"{self._folder}: process {pid} on {host} left a lock that nobody holds; "
                "taking it over"
            )
        content = json.dumps({"pid": os.getpid(), "host": here}).encode("ascii")
        # On a full disk the lock still holds, but does not name its holder.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, content, 0)

    def _refuse(self, pid: object, host: object) -> None:
        holder = f"process {pid} on {host}" if pid else "another process"
        raise DistillensError(f"{self._where}{self._folder}: in use by {holder}; {self._remedy}")


_OPEN: set[FolderLock] = set()


def _close_in_forked_children(lock: FolderLock) -> None:
    """A worker that outlives its killed parent must not keep the lock."""
    if not getattr(_close_in_forked_children, "registered", False):
        os.register_at_fork(after_in_child=_close_all)
        _close_in_forked_children.registered = True  # type: ignore[attr-defined]
    _OPEN.add(lock)


def _close_all() -> None:
    for lock in _OPEN:
        if lock._descriptor is not None:
            os.close(lock._descriptor)
            lock._descriptor = None
    _OPEN.clear()


def _holder(descriptor: int) -> tuple[Any, Any]:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
        return content["pid"], content["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
