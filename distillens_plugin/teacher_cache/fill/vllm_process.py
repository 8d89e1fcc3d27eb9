"""A vLLM server as a child process: it starts, it is awaited, it ends with its parent."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from eval_harness.errors import DistillensError, RunFailure

_POLL_S = 0.25
# Ours, or argparse's for a flag that vLLM does not have.
_REFUSAL = re.compile(r"(?:[\w.]+: )?error: (.*)")
_ERROR = re.compile(r"(?:^|\] )((?:[\w.]+\.)?\w*(?:Error|Exception): .*)")
# Without importing vLLM, which takes ten seconds.
_FIND = (
    "import importlib.util as u; "
    "print([name for name in ('vllm', 'distillens_plugin') if u.find_spec(name) is None])"
)


def absolute_python(python: str) -> str:
    """A path such as `../vllm/bin/python` or `~/vllm/bin/python`, from wherever it is run later.

    A bare name stays one, which is looked up in PATH. Links are not followed: they would lead out
    of a virtual environment.
    """
    return str(Path(os.path.expanduser(python)).absolute()) if "/" in python else python


def check_python(python: str) -> None:
    """Refuses an interpreter that lacks vLLM or this package.

    Raises:
        DistillensError: says what to install there.
    """
    where = f"--model vllm: {python}"
    try:
        found = subprocess.run(
            [python, "-c", _FIND], capture_output=True, text=True, timeout=120, check=True, cwd="/"
        ).stdout.strip()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise DistillensError(
            f"{where}: cannot be run ({type(error).__name__}); give python=PATH of an environment "
            "with vLLM in --model_args"
        ) from error
    if "vllm" in found:
        raise DistillensError(
            f"{where}: has no vLLM; pip install 'vllm>=0.32' there, or give python=PATH of an "
            "environment that has it in --model_args, or use --model hf"
        )
    if "distillens_plugin" in found:
        raise DistillensError(
            f"{where}: has vLLM, but not this package; pip install --no-deps it there"
        )


class VllmProcess:
    """The child and what it has printed.

    Args:
        command: starts `vllm_states.serve` with --ends-with-stdin.
        log: file for its output; one of an earlier run is replaced.
    """

    def __init__(self, command: list[str], *, log: Path) -> None:
        self._log = log
        environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", **os.environ}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._said = False

    def wait_until_ready(self, health_url: str) -> None:
        """Returns once the server answers; a large teacher takes minutes to load.

        Raises:
            RunFailure: it has ended.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            self.check_alive()
            self._say_how()
            with suppress(OSError), opener.open(health_url, timeout=5):
                return
            time.sleep(_POLL_S)

    def _say_how(self) -> None:
        """Passes on the line that says whether vLLM's own extraction is used or hooks."""
        if self._said:
            return
        for line in self._lines():
            if line.startswith("states: by "):
                print(f"vLLM gives the {line.split(' (')[0]}; its log is {self._log}")
                self._said = True

    def _lines(self) -> list[str]:
        return self._log.read_text("utf-8", errors="replace").splitlines()

    def check_alive(self, *, patience_s: float = 0.0) -> None:
        """Does nothing while the child lives.

        Args:
            patience_s: how long to wait for one that is about to end, in seconds.
        Raises:
            DistillensError: it has refused what was asked.
            RunFailure: it has ended.
        """
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(patience_s)
            lines = self._lines()
            refusals = [found[1] for line in lines if (found := _REFUSAL.match(line))]
            if refusals:
                raise DistillensError(f"--model vllm: {refusals[-1]}")
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise RunFailure(f"vLLM has ended ({how}): {_reason(lines)}; its log is {self._log}")

    def close(self) -> None:
        """Ends the child and all processes that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10.0)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def _reason(lines: list[str]) -> str:
    """What a log says most clearly: the first error that an inner process has raised."""
    for place, line in enumerate(lines):
        error = _ERROR.search(line)
        if error is not None and "initialization failed" not in line:
            # pydantic says on the next line what is wrong.
            more = lines[place + 1 : place + 2] if "validation error" in line else []
            return " ".join(" ".join([error[1], *more]).split())[:400]
    return " ".join(lines[-1].split())[-300:] if lines else "it printed nothing"
