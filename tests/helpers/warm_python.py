"""Python processes of the tests start at once: a server that has imported the packages forks them.

torch, transformers, torchdistill and this package take 4 s of a fast core to import, 13 of a slow
one, and the suite starts many hundred processes. `install()` puts a Popen in subprocess's place
that knows commands such as `[sys.executable, "-m", "distillens_plugin.run", ...]`; all others it
starts as ever. A forked process has a pid, signals, environment, working folder, files and exit
code of its own, and starts its own children in the same way: torchrun its workers, a study its
runs.

Different are: all of PRELOADED counts as imported, and what it warns of was said before; variables
that modules read while they are imported, or the C library at the start; the process's parent; its
command line and environment in /proc; the seed of string hashes, which all share. A test for which
that matters takes the fixture `cold_python`. DISTILLENS_COLD_TESTS=1 starts all processes in the
ordinary way.
"""

import atexit
import contextlib
import logging
import multiprocessing.util
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import warm_server

REPO = Path(__file__).resolve().parents[2]
PRELOADED = (
    "datasets",
    "distillens_plugin.cli",
    "distillens_plugin.training.train",
    "distillens_plugin.training.lens_readings",
    "eval_harness.commands.run",
    "torch.distributed.run",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
LAUNCHERS = (
    "accelerate.commands.accelerate_cli",
    "accelerate.commands.launch",
    "torch.distributed.run",
)
MODULES = ("distillens_plugin", "eval_harness", *LAUNCHERS)
# Variables that libraries read while they are imported start like these, but for some that the
# forked process heeds, and one that a library sets in pytest (it is about downloads).
READ_EARLY = ("HF_", "OMP_", "MKL_", "TRANSFORMERS_", "LD_", "PYTHON")
NOT_EARLY = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "HF_XET_HIGH_PERFORMANCE")
_Popen = subprocess.Popen


class Server:
    """The server that this process asks; none in a process that asks nobody.

    Attributes:
        folder: where its socket for programs is (warm_programs.py).
        owner: the process that may ask: a fork of it may not.
        forks: this process was itself forked from a server, and so is one that may be forked.
        environment: what the server was started with.
    """

    connection: socket.socket | None = None
    folder = ""
    owner = 0
    forks = False
    cold = False
    environment: Mapping[str, str] = {}
    lock = threading.Lock()


def install() -> None:
    """For pytest: from here on subprocess starts the commands of this package from a server."""
    cold = os.environ.get("DISTILLENS_COLD_TESTS") == "1"
    # vLLM's environment has none of what a run needs.
    if cold or not sys.platform.startswith("linux") or find_spec("torchdistill") is None:
        return
    Server.environment, Server.owner = dict(os.environ), os.getpid()
    subprocess.Popen = Popen  # type: ignore[misc]


def use_in_server() -> None:
    """For the server, before it imports anything that keeps the name Popen."""
    Server.environment = dict(os.environ)
    subprocess.Popen = Popen  # type: ignore[misc]


def use_in_forked(arguments: Sequence[str]) -> None:
    """For a process that a server has forked: it may be forked itself; launchers and scripts start
    theirs from a server of their own, which knows nothing of what they have done."""
    Server.forks = True
    named = arguments[1:] if arguments[0] == "-u" else arguments
    if named[0] == "-m" and named[1] not in LAUNCHERS:
        return
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        # Whoever reads the launcher's output must not wait for this process as well.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.closerange(3, theirs.fileno())
        os.closerange(theirs.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        warm_server.serve(theirs)
    theirs.close()
    Server.connection, Server.owner = ours, os.getpid()


def connection() -> socket.socket:
    """To the server, which pytest starts when it is first needed."""
    if Server.connection is None:
        Server.folder = tempfile.mkdtemp(prefix="warm-python-")
        atexit.register(shutil.rmtree, Server.folder, ignore_errors=True)
        ours, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(Server.folder, "socket"))
        listener.listen()
        paths = [str(REPO), *filter(None, [Server.environment.get("PYTHONPATH")])]
        descriptors = [theirs.fileno(), listener.fileno()]
        _Popen(
            [sys.executable, warm_server.__file__, *map(str, descriptors), *PRELOADED],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            env={**Server.environment, "PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        listener.close()
        Server.connection = ours
    return Server.connection


def changed() -> dict[str, str]:
    """What differs by now from what the server was started with, so that nothing is forked."""
    if subprocess.Popen is not Popen:
        return {}
    return dict(set(early(os.environ).items()) ^ set(early(Server.environment).items()))


@contextlib.contextmanager
def cold() -> Iterator[None]:
    """Within, all processes are started in the ordinary way."""
    before, Server.cold = Server.cold, True
    try:
        yield
    finally:
        Server.cold = before


class Popen(_Popen):
    """subprocess.Popen whose process is forked, where the command allows it."""

    _report = -1

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        _, pass_fds, cwd, env, _, _, shell, *ends = rest
        stdin, _, _, stdout, _, stderr = ends[:6]
        *user, umask, new_session, group = ends[7:]
        plain = not (shell or executable or any(user)) and umask == group == -1
        arguments = forkable(args, os.environ if env is None else env) if plain else None
        # What is called before the command starts cannot be sent to a server.
        alone = Server.forks and preexec_fn is not None and threading.active_count() == 1
        ask = preexec_fn is None and Server.owner == os.getpid()
        if arguments is None or not (ask or alone):
            super()._execute_child(args, executable, preexec_fn, *rest)
            return
        message = {
            "arguments": arguments,
            "folder": os.path.abspath(os.fsdecode(cwd or ".")),
            "environment": dict(os.environ if env is None else env),
            "new_session": bool(new_session),
        }
        # As ever; watched.py listens.
        sys.audit("subprocess.Popen", sys.executable, args, cwd, env)
        standard = [n if given == -1 else given for n, given in enumerate((stdin, stdout, stderr))]
        if ask:
            self._ask(message, standard, list(pass_fds))
        else:
            self._fork(message, standard, list(pass_fds), preexec_fn)
        self._child_created = True
        self._close_pipe_fds(*ends[:6])

    def _ask(self, message: dict[str, Any], standard: list[int], kept: list[int]) -> None:
        read, write = os.pipe()
        message = {**message, "keep": kept}
        with Server.lock:
            asked = connection()
            warm_server.send(asked, message, [*standard, write, *kept])
            answer = warm_server.receive(asked)
        os.close(write)
        if answer is None:
            raise RuntimeError("the server that forks Python processes has ended; see stderr")
        self.pid, self._report = answer[0]["pid"], read

    def _fork(
        self, message: dict[str, Any], standard: list[int], kept: list[int], preexec_fn: Any
    ) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            if message["new_session"]:
                os.setsid()
            warm_server.forget_signals()
            preexec_fn()
            _forget_exits()
            warm_server.become(message, standard, {number: number for number in kept})

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._report == -1:
            return super()._try_wait(wait_flags)
        timeout = 0 if wait_flags & os.WNOHANG else None
        if not select.select([self._report], [], [], timeout)[0]:
            return 0, 0
        report = os.read(self._report, warm_server.LENGTH.size)
        os.close(self._report)
        self._report = -1
        # Without a word its parent was killed, which only a test of everything's end does.
        return self.pid, warm_server.LENGTH.unpack(report)[0] if report else int(signal.SIGKILL)

    def _internal_poll(self, _deadstate: Any = None, *_: Any, **__: Any) -> int | None:
        if self._report == -1:
            return super()._internal_poll(_deadstate=_deadstate)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid == self.pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def _forget_exits() -> None:
    """What this process's parent does when it ends, such as taking its temporary folder away."""
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)


def forkable(args: Any, environment: Mapping[str, str]) -> list[str] | None:
    """The arguments after `python`, if a forked process can do what the command says."""
    if Server.cold or isinstance(args, str | bytes | os.PathLike):
        return None
    program, *arguments = (os.fsdecode(each) for each in args)
    named = arguments[1:] if arguments[:1] == ["-u"] else arguments
    if program != sys.executable or not named:
        return None
    if named[0] == "-m":
        known = any(f"{named[1]}.".startswith(f"{name}.") for name in MODULES)
    else:
        known = named[0].endswith(".py")
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    customised = any(
        os.path.exists(os.path.join(path, f"{name}customize.py"))
        for path in filter(None, paths)
        for name in ("site", "user")
    )
    same = early(environment) == early(Server.environment)
    return arguments if known and same and not customised else None


def early(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries read while they are imported."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_EARLY) and name not in NOT_EARLY
    }
