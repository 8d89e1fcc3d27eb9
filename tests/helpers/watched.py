"""Calls a command in this process and records what it writes, starts and connects to."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
)
_STARTING = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
_seen: list[str] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit code.
        message: what it wrote to stderr.
        seconds: of the processor; the clock would blame a command for other load.
        touched: files written or changed, programs started.
    """

    code: int
    message: str
    seconds: float
    touched: tuple[str, ...]

    def fault(self) -> str:
        """What is wrong with it as the answer to bad input; "" where nothing is."""
        if self.code not in (0, 2):
            return f"exit code {self.code}: {self.message[-300:]}"
        if self.touched:
            return f"touched {self.touched[:3]}"
        if self.seconds > 5:
            return f"took {self.seconds:.1f} s"
        if self.code == 2 and (self.message.count("\n") != 1 or not 20 < len(self.message) < 1000):
            return f"{len(self.message)} characters: {self.message[:300]!r}"
        return ""


def call(main: Callable[[list[str]], int], arguments: list[str]) -> Outcome:
    """Runs a command's main in this process."""
    global _seen
    started = time.process_time()
    stderr = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
        _seen = []
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            touched, _seen = tuple(_seen), None
    return Outcome(code, stderr.getvalue(), time.process_time() - started, touched)


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING and not _is_harmless(path):
            _seen.append(f"{event} {path}")
    elif (event in _CHANGING and not _is_harmless(arguments[0])) or event in _STARTING:
        _seen.append(f"{event} {arguments[0]}")


def _is_harmless(path: Any) -> bool:
    """Python's own compiled modules, and where nothing is kept."""
    text = os.fsdecode(path) if isinstance(path, str | bytes) else str(path)
    # `datasets` cannot read a folder without one to write to, which --validate takes away again.
    return "__pycache__" in text or "distillens-validate-" in text or text == os.devnull


@contextlib.contextmanager
def unchanged(folder: Any) -> Iterator[None]:
    """Fails where a file below the folder has come, gone or changed within."""
    before = _tree(folder)
    yield
    assert _tree(folder) == before


def _tree(folder: Any) -> dict[str, tuple[int, int]]:
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files, "."]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            found[path] = (status.st_mtime_ns, status.st_size)
    return found


# It cannot be taken away again, so it looks only while a command runs.
sys.addaudithook(_record)
