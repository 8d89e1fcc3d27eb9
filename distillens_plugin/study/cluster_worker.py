"""What runs inside a Ray worker: one command of a study as a child process, and its outcome."""

import contextlib
import importlib.metadata
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.study.child import end_children, import_paths, last_line, start_child
from distillens_plugin.study.parcel import pack, remove, unpack
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.files.lock import FolderLock

if TYPE_CHECKING:
    from ray import ObjectRef

_POLL_S = 0.2
# A child whose node was lost, or whose study was killed, may need this long to be gone.
_PATIENCE_S = 60.0
_LOG_BYTES = 2**20
# In a study's folder on a node that does not share it: all there is a copy.
_COPIES = ".copied"


@dataclass(frozen=True)
class Parcel:
    """Files in the object store.

    Attributes:
        paths: that it replaces on the other side.
        digest: of the content, of what is only read: a node that has it does not fetch it again.
    """

    paths: tuple[Path, ...]
    chunks: "list[ObjectRef[bytes]]"
    digest: str | None = None


@dataclass(frozen=True)
class Task:
    """A command for a node; all paths are absolute.

    Attributes:
        arguments: of Python.
        environment: what differs from the worker's.
        trusted: see `child.import_paths`.
        writes: see `executor.Command`.
        study: the study's folder.
        mark: a file in it that only a node sees that shares it.
        parcels: what another node needs; None: there must be no other.
    """

    arguments: tuple[str, ...]
    log: Path
    working_folder: Path
    environment: dict[str, str]
    trusted: bool
    writes: tuple[Path, ...]
    study: Path
    mark: Path
    parcels: tuple[Parcel, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended on a node.

    Attributes:
        said: its last line.
        result: what it wrote, and the end of its log, if the node does not share the folder.
    """

    code: int
    seconds: float
    said: str
    host: str
    result: Parcel | None = None
    log: bytes = b""


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself.

    Attributes:
        shared: it sees the study's folder: it has read the driver's mark and left one.
        missing: files and folders that it lacks.
        has_another: the folder is there, with files that no study has copied to it.
    """

    host: str
    version: str
    shared: bool
    missing: list[str] = field(default_factory=list)
    has_another: bool = False


def version() -> str:
    """Of distillens, where this runs."""
    return importlib.metadata.version("distillens")


def look_around(mark: Path, content: str, answer: Path, needed: Sequence[Path]) -> NodeReport:
    """Whether this node can take part in a study.

    Args:
        mark: a file that the driver has written, with this content.
        answer: a file that the driver looks for.
        needed: what a run reads from outside the study's folder.
    """
    shared = False
    with contextlib.suppress(OSError):
        shared = mark.read_text(encoding="ascii") == content
        if shared:
            answer.write_text(content, encoding="ascii")
    missing = [str(path) for path in needed if not path.exists()]
    another = not shared and _has_another(mark.parent)
    return NodeReport(socket.gethostname(), version(), shared, missing, another)


def _has_another(study: Path) -> bool:
    """Whether a study's folder holds what is not ours to replace: results of this machine's own."""
    with contextlib.suppress(OSError):
        return any(study.iterdir()) and not (study / _COPIES).is_dir()
    return False


def run_task(task: Task) -> Outcome:
    """Runs the command; its child ends with this worker, and when the task is cancelled.

    Raises:
        DistillensError: the node does not see what it needs, or cannot write its files.
    """
    host = socket.gethostname()
    try:
        if task.mark.is_file():
            return _run(task, host)
        if task.parcels is None:
            raise RunFailure(
                f"{host} does not see {task.study}; share the folder with it, or give "
                "--ray_results copied"
            )
        with _brought(task, task.parcels):
            outcome = _run(task, host)
            result = Parcel(task.writes, store(task.study, task.writes))
            log = task.log.read_bytes()[-_LOG_BYTES:] if task.log.is_file() else b""
            return replace(outcome, result=result, log=log)
    except OSError as error:
        raise RunFailure(f"{host}: {error.filename or task.study}: {error.strerror}") from error


def store(root: Path, paths: Sequence[Path]) -> "list[ObjectRef[bytes]]":
    """Puts files into the object store, piece by piece."""
    import ray

    return [ray.put(chunk) for chunk in pack(root, paths)]


def fetch(parcel: Parcel, root: Path) -> None:
    """Takes files out of the object store; see `parcel.unpack`."""
    import ray

    unpack((ray.get(chunk) for chunk in parcel.chunks), root, parcel.paths)


def clear(study: Path, mark: Path) -> None:
    """Removes what copied runs have left on this node; never what is not a copy."""
    if not mark.is_file() and (study / _COPIES).is_dir():
        remove(study)


def _run(task: Task, host: str) -> Outcome:
    _wait_until_free(task.writes[0])
    started = time.monotonic()
    child = start_child(
        [sys.executable, *task.arguments],
        task.log,
        environment={**import_paths(trusted=task.trusted), **task.environment},
        working_folder=task.working_folder,
    )
    try:
        code = _wait(child)
    finally:
        end_children([child] if child.poll() is None else [])
    return Outcome(code, time.monotonic() - started, last_line(task.log) if code else "", host)


def _wait(child: subprocess.Popen[bytes]) -> int:
    # Ray cancels a task by an exception that arrives between two Python instructions.
    while (code := child.poll()) is None:
        time.sleep(_POLL_S)
    return code


def _wait_until_free(folder: Path) -> None:
    """Waits for the end of a run that has lost its study; the child reports a lock that stays."""
    if folder.is_dir():
        lock = FolderLock(folder, patience_s=_PATIENCE_S)
        with contextlib.suppress(DistillensError), lock:
            pass


@contextlib.contextmanager
def _brought(task: Task, parcels: Sequence[Parcel]) -> Iterator[None]:
    """The task's files, in the same places as the study has them; what it writes goes again."""
    if _has_another(task.study):
        raise RunFailure(
            f"it has a folder {task.study} of its own, which copies would replace; remove it there"
        )
    (task.study / _COPIES).mkdir(parents=True, exist_ok=True)
    for parcel in parcels:
        if parcel.digest is None:
            fetch(parcel, task.study)
        else:
            _fetch_once(parcel, parcel.digest, task.study)
    task.log.unlink(missing_ok=True)
    task.working_folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in (*task.writes, task.log):
            remove(path)


def _fetch_once(parcel: Parcel, digest: str, study: Path) -> None:
    """Never twice: another run on this node may be reading it."""
    folder = study / _COPIES
    with FolderLock(folder, name=f"{digest}.lock", patience_s=3600.0):
        if not (folder / digest).exists():
            fetch(parcel, study)
            (folder / digest).touch()
