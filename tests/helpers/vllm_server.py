"""A real `vllm serve` over a small model: started, killed, and started again where it was."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

# Enough for a small model; without a size for its KV cache vLLM does not start on a CPU.
SMALL = ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**26)]
# vLLM cannot rewind a seeded request's random numbers on a CPU, so prompts must not be split.
SMALL += ["--no-enable-chunked-prefill", "--max-num-seqs", "16"]
START_S = 240.0


class VllmServer:
    """One server at one address.

    Args:
        python: of an environment with vLLM.
        model: a folder.
        log: file for its output.
        flags: of `vllm serve`, besides those of a small server.
    """

    def __init__(self, python: str, model: Path, log: Path, *flags: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        self._log = log
        self._command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        self._command += ["--host", "127.0.0.1", "--port", str(port), *SMALL, *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, or starts it again, and waits until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, "VLLM_NO_USAGE_STATS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while True:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < deadline, "vLLM does not start"
            try:
                urllib.request.urlopen(f"{self.root}/health", timeout=5)
            except OSError:
                time.sleep(0.2)
            else:
                return

    def kill(self) -> None:
        """Ends it, engine and all, without a warning."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
