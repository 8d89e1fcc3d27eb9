"""A child process of a study: how it finds our packages, and that it never outlives its parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import eval_harness

# After SIGTERM a run finishes its step and keeps a state, which is slow for a large model.
_GRACE_S = 100.0


def start_child(
    arguments: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str],
    working_folder: str | os.PathLike[str] | None = None,
    lock: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a command whose output is appended to a log.

    Args:
        environment: what differs from this process's.
        lock: file descriptor that the child inherits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=working_folder,
            env={**os.environ, **import_paths(trusted=True), **environment},
            pass_fds=() if lock is None else (lock,),
            preexec_fn=_die_with_parent(),
        )


def import_paths(*, trusted: bool) -> dict[str, str]:
    """The environment by which a child finds our packages and, without trust, no others by chance.

    `python -m` puts the working folder first on its path: a study's folder may hold a torch.py.
    """
    # A child in another folder must still find the packages of a checkout that is not installed.
    root = str(Path(eval_harness.__file__).resolve().parent.parent)
    given = os.environ.get("PYTHONPATH")
    # Absolute: a child may work in another folder.
    paths = [root, *map(os.path.abspath, given.split(os.pathsep) if given else [])]
    safe = {} if trusted else {"PYTHONSAFEPATH": "1"}
    return {"PYTHONPATH": os.pathsep.join(paths), **safe}


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel ends a child whose parent is gone, even by SIGKILL.

    Elsewhere a child keeps running after SIGKILL has ended its study. It inherits the folder's
    lock, which then keeps a new study from starting the same run beside it.
    """
    if not sys.platform.startswith("linux"):
        return None
    # Loaded here: after the fork nothing may be allocated or imported that could wait for a lock.
    prctl = ctypes.CDLL(None).prctl
    parent, exit_now = os.getpid(), os._exit
    death_signal, kill = 1, int(signal.SIGKILL)

    def ask() -> None:
        prctl(death_signal, kill)
        if os.getppid() != parent:
            exit_now(1)

    return ask


def end_children(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends them by SIGTERM, which lets them save, and by SIGKILL if that takes too long."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()


def failure(code: int, log: Path, said: str | None = None) -> str:
    """One line that says how a child failed; empty for exit code 0.

    Args:
        said: the log's last line, if it is known already.
    """
    if code == 0:
        return ""
    reason = f"ended by signal {-code}" if code < 0 else said or last_line(log)
    return f"{reason} (exit code {code}; {log})"


def last_line(log: Path) -> str:
    """The last line that a failed command printed."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no log"
    printed = [line.rpartition("\r")[2].strip() for line in lines]
    return next((line for line in reversed(printed) if line), "it printed nothing")
