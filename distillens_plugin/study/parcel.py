"""Files and folders as chunks of bytes, and back: what travels where no folder is shared."""

import io
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from eval_harness.errors import RunFailure
from eval_harness.shared.files.lock import LOCK_NAME

CHUNK_BYTES = 64 * 2**20


def pack(root: Path, paths: Sequence[Path], *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The files at and below `paths` as a tar archive in pieces; those that do not exist are out.

    Args:
        root: names in the archive start from it; above all paths.
        chunk_bytes: length of a piece, except the last.
    Yields:
        Pieces of the archive, in order. No more than one of them is in memory.
    Raises:
        OSError: a file cannot be read.
    """
    reading, writing = os.pipe()
    raised: list[OSError] = []

    def write() -> None:
        # A pipe, since tarfile writes a whole file of weights in one call.
        try:
            with (
                open(writing, "wb") as pipe,
                tarfile.open(fileobj=pipe, mode="w|") as archive,
            ):
                for path in paths:
                    for file in _files(path):
                        archive.add(file, arcname=str(file.relative_to(root)), recursive=False)
        except OSError as error:
            raised.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with open(reading, "rb") as pipe:
        while chunk := pipe.read(chunk_bytes):
            yield chunk
    writer.join()
    if raised:
        raise raised[0]


def unpack(chunks: Iterable[bytes], root: Path, paths: Sequence[Path]) -> None:
    """Puts a packed archive in the place of `paths`; what it does not hold of them is removed.

    Everything is unpacked before the first of them is touched.

    Raises:
        RunFailure: the archive is damaged, or names something outside `paths`.
        OSError: a file cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=root) as folder:
        arrived = Path(folder)
        try:
            with tarfile.open(fileobj=_Source(chunks), mode="r|", bufsize=2**20) as archive:
                archive.extractall(arrived, filter="data")
        except tarfile.TarError as error:
            raise RunFailure(f"{root}: what a node sent is damaged: {error}") from error
        for path in paths:
            _replace(path, arrived / path.relative_to(root))


def remove(path: Path) -> None:
    """A file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        # An empty folder counts too.
        yield Path(folder)
        yield from (Path(folder, name) for name in names if name != LOCK_NAME)


def _replace(path: Path, new: Path) -> None:
    old = new.with_name(f"{new.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        old.parent.mkdir(parents=True, exist_ok=True)
        path.rename(old)
    if new.exists():
        new.rename(path)


class _Source(io.RawIOBase):
    """Reads chunks one after the other."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._left = chunk
        block, self._left = self._left[:size], self._left[size:]
        return block
