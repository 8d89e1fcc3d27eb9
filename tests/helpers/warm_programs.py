"""`python`, `distillens`, `torchrun` and others that start at once, for lines of bash.

They ask the server of warm_python.py through a socket in its folder.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import warm_python
from warm_python import Popen, Server, connection, early, forkable

# The programs of an environment that are such a module.
PROGRAMS = {
    "accelerate": "accelerate.commands.accelerate_cli",
    "distillens": "distillens_plugin.cli",
    "eval-harness": "eval_harness",
    "torchrun": "torch.distributed.run",
}
_TEXT = """#!{python} -I
import sys
sys.path.insert(0, {helpers!r})
import warm_programs
warm_programs.run({name!r}, {folder!r}, {environment!r})
"""


def programs() -> str | None:
    """A folder for PATH; None where processes start in the ordinary way."""
    if subprocess.Popen is not Popen or Server.cold:
        return None
    connection()
    folder = Path(Server.folder) / "bin"
    if not folder.is_dir():
        folder.mkdir()
        for name in ("python", "python3", *PROGRAMS):
            text = _TEXT.format(
                python=sys.executable,
                helpers=os.path.dirname(warm_python.__file__),
                name=name,
                folder=Server.folder,
                environment=early(Server.environment),
            )
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755)
    return str(folder)


def run(name: str, folder: str, environment: Mapping[str, str]) -> None:
    """What such a program does: it waits for the forked process, or becomes the real program.

    Args:
        environment: what the server was started with, as far as that matters.
    """
    given = sys.argv[1:]
    arguments = ["-m", PROGRAMS[name], *given] if name in PROGRAMS else given
    Server.environment = environment
    if forkable([sys.executable, *arguments], os.environ) is None:
        real = os.path.join(os.path.dirname(sys.executable), name)
        os.execv(real, [real, *given])
    Server.connection, Server.owner = socket.socket(socket.AF_UNIX), os.getpid()
    Server.connection.connect(os.path.join(folder, "socket"))
    process = Popen([sys.executable, *arguments])
    forwarded = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
    for number in forwarded:
        signal.signal(number, lambda number, _: process.send_signal(number))
    code = process.wait()
    if code < 0:
        if -code in forwarded:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
