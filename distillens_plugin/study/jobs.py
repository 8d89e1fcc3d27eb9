"""Runs commands as child processes, several at a time, and lets none outlive the study."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import eval_harness
from eval_harness.errors import DistillensError

_POLL_S = 0.1
_GRACE_S = 10.0


@dataclass
class Command:
    """One child process.

    Attributes:
        before: called right before it starts;  after: with its seconds, once it has succeeded.
    """

    arguments: list[str]
    log: Path
    working_folder: Path | None = None
    before: Callable[[], None] | None = None
    after: Callable[[float], None] | None = None


@dataclass
class Job:
    """Commands that follow each other; the first failure ends the job."""

    name: str
    commands: list[Command]


@dataclass
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen | None = None
    index: int = 0
    command_started: float = 0.0
    started: float = field(default_factory=time.monotonic)


def run_jobs(
    jobs: Sequence[Job],
    environments: Sequence[dict[str, str]],
    *,
    say: Callable[[str], None],
    lock: int | None = None,
) -> dict[str, str]:
    """Runs all jobs, as many at a time as there are environments.

    Args:
        environments: of each slot, such as its CUDA_VISIBLE_DEVICES.
        say: prints a line.
        lock: file descriptor of the folder's lock, which the children hold too.
    Returns:
        What failed: the job's name and one line that says why.
    """
    waiting, failed = list(jobs), dict[str, str]()
    running: list[_Running] = []
    free = list(range(len(environments)))
    finished: list[float] = []
    try:
        while waiting or running:
            while waiting and free:
                running.append(_Running(waiting.pop(0), free.pop(0)))
            for item in list(running):
                failure = _advance(item, environments[item.slot], lock)
                if failure is None:
                    continue
                running.remove(item)
                free.append(item.slot)
                seconds = time.monotonic() - item.started
                finished.append(seconds)
                left = len(waiting) + len(running)
                count = f"[{len(jobs) - left}/{len(jobs)}] {item.job.name}"
                if failure:
                    failed[item.job.name] = failure
                    say(f"{count} failed: {failure}")
                else:
                    rest = sum(finished) / len(finished) * left / len(environments)
                    about = f"; about {duration(rest)} left in this phase" if left else ""
                    say(f"{count} done in {duration(seconds)}{about}")
            if running:
                time.sleep(_POLL_S)
    finally:
        _end([item.process for item in running if item.process is not None])
    return failed


def _advance(item: _Running, environment: dict[str, str], lock: int | None) -> str | None:
    """Starts the job's next command when the last has ended.

    Returns:
        None while it runs, "" when all is done, else what failed.
    """
    if item.process is not None:
        code = item.process.poll()
        if code is None:
            return None
        command = item.job.commands[item.index]
        item.process = None
        if code != 0:
            reason = f"ended by signal {-code}" if code < 0 else last_line(command.log)
            return f"{reason} (exit code {code}; {command.log})"
        if command.after is not None:
            try:
                command.after(time.monotonic() - item.command_started)
            except DistillensError as error:
                return str(error)
        item.index += 1
    if item.index == len(item.job.commands):
        return ""
    command = item.job.commands[item.index]
    try:
        if command.before is not None:
            command.before()
        item.process = _start(command, environment, lock)
    except (DistillensError, OSError) as error:
        return str(error)
    item.command_started = time.monotonic()
    return None


def _start(command: Command, environment: dict[str, str], lock: int | None) -> subprocess.Popen:
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        return subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=command.working_folder,
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
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
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


def _end(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()


def environments(num_jobs: int | None) -> list[dict[str, str]]:
    """The environment of each slot: a GPU each if there are any, else one CPU thread each.

    Args:
        num_jobs: slots; None: one for each GPU, one on a CPU. More slots than GPUs share them.
    """
    gpus = _gpus()
    if not gpus:
        return [{"OMP_NUM_THREADS": "1"}] * (num_jobs or 1)
    count = num_jobs or len(gpus)
    return [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(count)]


def _gpus() -> list[str]:
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()][:count]
    return [str(index) for index in range(count)]


def duration(seconds: float) -> str:
    """In words, coarse."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def last_line(log: Path) -> str:
    """The last line that a failed command printed."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no log"
    printed = [line.rpartition("\r")[2].strip() for line in lines]
    return next((line for line in reversed(printed) if line), "it printed nothing")
