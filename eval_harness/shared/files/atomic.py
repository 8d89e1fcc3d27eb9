"""Files that appear whole or not at all, and the check that they can be written."""

import contextlib
import json
import os
import tempfile
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
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; results are meant to be as readable as any other file.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise RunFailure(f"{os.fspath(path)}: cannot be written: {error.strerror}") from error


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes strict, indented JSON in ASCII, atomically.

    Raises:
        RunFailure: NaN or an infinity in it, or the file cannot be written.
    """
    write_text(path, encode_json(value, where=os.fspath(path)))


def encode_json(value: object, *, where: str) -> str:
    """Strict, indented JSON in ASCII: it survives any terminal, and lone surrogates too.

    Raises:
        RunFailure: NaN or an infinity in it, which JSON does not have.
    """
    try:
        return json.dumps(value, allow_nan=False, indent=2) + "\n"
    except ValueError as error:
        raise RunFailure(f"{where}: {error}; JSON has no NaN and no infinity") from error


def check_can_be_made(folder: str | os.PathLike[str]) -> None:
    """As `check_writable`, but a folder that had to be made is gone again: for what may yet be
    refused.
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
