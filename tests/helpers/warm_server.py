"""A server that has imported what takes seconds, and forks a process for each request.

    python warm_server.py CONNECTION LISTENER [MODULE ...]

A request and its answer are JSON with a length before them. With a request come the descriptors of
stdin, stdout, stderr, of a pipe for the exit status, and those that the process inherits.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import itertools
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

LENGTH = struct.Struct("!I")
_MAX_DESCRIPTORS = 64


def send(connection: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    body = json.dumps(message).encode()
    # The descriptors go with the length: a message of any size has room for them.
    if descriptors:
        socket.send_fds(connection, [LENGTH.pack(len(body))], descriptors)
    else:
        connection.sendall(LENGTH.pack(len(body)))
    connection.sendall(body)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """A message and what came with it; None when the other side is gone."""
    head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, _MAX_DESCRIPTORS)
    body = b""
    if len(head) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        while len(body) < length:
            part = connection.recv(length - len(body))
            if not part:
                return None
            body += part
        return json.loads(body), list(descriptors)
    return None


def serve(connection: socket.socket, listener: socket.socket | None = None) -> None:
    """Answers requests until the other side is gone; never returns.

    Args:
        listener: where others connect, for one request each.
    """
    while True:
        ready, _, _ = select.select([connection, *([listener] if listener else [])], [], [])
        _forget_ended()
        if connection in ready and not _answer(connection, listener):
            os._exit(0)
        if listener in ready:
            # One that is killed meanwhile must not end the server.
            with listener.accept()[0] as once, contextlib.suppress(OSError):
                _answer(once, listener)


def _forget_ended() -> None:
    """Those that watched a process which has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _answer(connection: socket.socket, listener: socket.socket | None) -> bool:
    """Starts what one request asks for; False where the other side is gone."""
    request = receive(connection)
    if request is None:
        return False
    message, descriptors = request
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        for each in filter(None, (connection, listener)):
            each.close()
        _watch(message, descriptors, write)
    os.close(write)
    for descriptor in descriptors:
        os.close(descriptor)
    pid = int(os.read(read, 20))
    os.close(read)
    send(connection, {"pid": pid}, [])
    return True


def _watch(message: dict[str, Any], descriptors: list[int], write: int) -> None:
    """Starts the process and reports how it ended; this process is its parent."""
    stdin, stdout, stderr, report, *inherited = descriptors
    pid = os.fork()
    if pid == 0:
        if message["new_session"]:
            os.setsid()
        forget_signals()
        # Whoever asked may send signals to it and to its group from here on.
        os.write(write, str(os.getpid()).encode())
        become(message, (stdin, stdout, stderr), dict(zip(message["keep"], inherited, strict=True)))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Whoever reads the output waits until nobody can write to it any more.
    for descriptor in (stdin, stdout, stderr, write, *inherited):
        os.close(descriptor)
    # Until whoever asked has been told, the process keeps its number, as any child does.
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    exited = ended.si_code == os.CLD_EXITED
    with contextlib.suppress(BrokenPipeError):
        os.write(report, LENGTH.pack(ended.si_status << 8 if exited else ended.si_status))
        heard = select.poll()
        heard.register(report, select.POLLERR)
        heard.poll()
    os.waitpid(pid, 0)
    os._exit(0)


def forget_signals() -> None:
    """Handlers are gone in a new process, too; what is ignored stays so."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) or number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)


def become(message: dict[str, Any], standard: Sequence[int], keep: dict[int, int]) -> None:
    """Does what a new `python ARGUMENTS` does; never returns.

    Args:
        message: `arguments` (without python itself), `folder` and `environment`.
        standard: descriptors for stdin, stdout and stderr.
        keep: other descriptors, by the number that each is to have.
    """
    code = 70
    try:
        _wear(message, standard, keep)
        _reopen()
        # Python's own random reseeds itself.
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        warm_python.use_in_forked(message["arguments"])
        code = _run(message["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wear(message: dict[str, Any], standard: Sequence[int], keep: dict[int, int]) -> None:
    """Takes on environment, folder and descriptors."""
    os.environ.clear()
    os.environ.update(message["environment"])
    os.chdir(message["folder"])
    # Out of the way of the numbers that they are to have.
    above = max([2, *keep]) + 1
    wanted = {**dict(enumerate(standard)), **keep}
    lifted = {number: fcntl.fcntl(given, fcntl.F_DUPFD, above) for number, given in wanted.items()}
    for number, given in lifted.items():
        os.dup2(given, number)
    ends = sorted({*wanted, os.sysconf("SC_OPEN_MAX")})
    for lower, upper in itertools.pairwise(ends):
        os.closerange(lower + 1, upper)


def _reopen() -> None:
    """The streams of a new process."""
    keep: dict[str, Any] = {"encoding": "utf-8", "closefd": False}
    sys.stdin = os.fdopen(0, "r", **keep)
    sys.stdout = os.fdopen(1, "w", **keep)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", **keep)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _run(arguments: list[str]) -> int:
    """Runs the main module to its end, and all that comes after it; returns the exit code."""
    code, interrupted = 0, False
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _main(arguments)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            code = (end.code or 0) & 0xFF
        else:
            print(end.code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        interrupted = True
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            # What Python itself says and does then.
            with contextlib.suppress(OSError, ValueError):
                print(f"Exception ignored in: {stream!r}", file=sys.stderr)
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            code = 120
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return code


def _main(arguments: list[str]) -> None:
    if arguments[0] == "-u":
        arguments = arguments[1:]
        os.environ["PYTHONUNBUFFERED"] = "1"
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    sys.orig_argv = [sys.executable, *arguments]
    module = arguments[1] if arguments[0] == "-m" else None
    first = os.getcwd() if module else os.path.dirname(os.path.abspath(arguments[0]))
    given = os.environ.get("PYTHONPATH", "")
    sys.path[:] = [
        *([] if os.environ.get("PYTHONSAFEPATH") else [first]),
        *filter(None, given.split(os.pathsep)),
        *_INSTALLED,
    ]
    if module is None:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")
        return
    sys.argv = list(arguments[1:])
    # It has been imported with the others, and is run once more as the main module.
    warnings.filterwarnings("ignore", ".*prior to execution of", RuntimeWarning)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


# Without what the environment of this process added.
_ADDED = {
    os.path.dirname(os.path.abspath(__file__)),
    *os.environ.get("PYTHONPATH", "").split(os.pathsep),
}
_INSTALLED = [path for path in sys.path if path not in _ADDED]


def main() -> None:
    connection, listener = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    # Ctrl-C is for pytest and what it started, not for what starts the next.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_python.use_in_server()
    for module in sys.argv[3:]:
        importlib.import_module(module)
    # What is there by now is never looked through again, and so its pages stay shared.
    gc.freeze()
    serve(connection, listener)


if __name__ == "__main__":
    sys.modules["warm_server"] = sys.modules["__main__"]
import warm_python  # noqa: E402 - it imports this module

if __name__ == "__main__":
    main()
