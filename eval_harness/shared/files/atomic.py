"""Files that appear whole or not at all, and the check that they can be written."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from eval_harness.errors import DistillensError, RunFailure


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8; see `write_bytes`. Lone surrogates have no UTF-8 form."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes beside `path`, makes it durable, and renames it into place.

    Args:
        path: the file; its folder is made if missing.
        content: all of it.
    Raises:
        RunFailure: the file cannot be written; an existing one is then untouched.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot(path, error) from error
    with whole_file(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """For code with its own writer: `path` gets what the block writes to the file it is given.

    Args:
        path: the file; its folder must exist. A link is followed.
    Yields:
        An empty file beside it, made durable and renamed into place at the end of the block, and
        removed if the block raises.
    Raises:
        RunFailure: the file cannot be written, also within the block; an existing one is then
            untouched.
    """
    target = Path(os.path.realpath(path))
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(descriptor)
        partial = Path(name)
        try:
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            # mkstemp makes private files; results should be as readable as any other file.
            mask = os.umask(0)
            os.umask(mask)
            partial.chmod(0o666 & ~mask)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot(path, error) from error


def _cannot(path: str | os.PathLike[str], error: OSError) -> RunFailure:
    return RunFailure(f"{os.fspath(path)}: cannot be written: {error.strerror}")


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes strict, indented JSON in ASCII, atomically.

    Raises:
        RunFailure: `value` holds NaN or an infinity, or the file cannot be written.
    """
    write_text(path, encode_json(value, where=os.fspath(path)))


def encode_json(value: object, *, where: str) -> str:
    """Strict, indented JSON in ASCII: it survives any terminal, and lone surrogates too.

    Raises:
        RunFailure: `value` holds NaN or an infinity, which JSON does not have.
    """
    try:
        return json.dumps(value, allow_nan=False, indent=2) + "\n"
    except ValueError as error:
        raise RunFailure(f"{where}: {error}; JSON has no NaN and no infinity") from error


def check_can_be_made(folder: str | os.PathLike[str]) -> None:
    """As `check_writable`, but removes a folder that it had to make.

    For runs that may still be refused, and should then leave nothing behind.
    """
    missing = [path for path in _with_parents(folder) if not os.path.lexists(path)]
    try:
        check_writable(folder)
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def _with_parents(folder: str | os.PathLike[str]) -> list[Path]:
    path = Path(os.path.abspath(folder))
    return [path, *path.parents]


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Refuses an output folder that cannot be written, before any work is done.

    Args:
        folder: made if missing.
    Raises:
        DistillensError: it is a file, or cannot be made or written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DistillensError(
            f"{os.fspath(folder)}: cannot be written ({reason}); give another output path"
        ) from error
