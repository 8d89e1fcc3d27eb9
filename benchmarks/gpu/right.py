"""Right on this device: the fused walk against float64, and training steps against the CPU's.

Every divergence also runs compiled, each in a process of its own beside the rest: compiling is
what takes the time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from right_fused import fused_cases
from right_models import model_cases
from right_triton import triton_cases
from stage import Call, call_of

from distillens_plugin.divergences import DIVERGENCES

# For all workers together, once the stage's time is up.
LEAST_SECONDS = 5.0


class Worker(NamedTuple):
    """A process, and the files of what it prints: a pipe stays open as long as its compilers."""

    process: subprocess.Popen[bytes]
    output: Path
    errors: Path


def start_compiled(call: Call, folder: Path) -> dict[str, Worker]:
    """A process for each divergence that is compiled; on a CPU one, which is enough of a trial."""
    names = [*DIVERGENCES, "cross_entropy"] if not call.tiny else ["jsd"]
    script = Path(__file__).with_name("right_compiled.py")
    # Each worker would start a compiler for every core.
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    workers = {}
    for name in names:
        command = [sys.executable, str(script), name, call.device.type]
        output, errors = folder / f"{name}.output", folder / f"{name}.errors"
        with output.open("wb") as printed, errors.open("wb") as said:
            process = subprocess.Popen(command, stdout=printed, stderr=said, env=environment)
        workers[name] = Worker(process, output, errors)
    return workers


def compiled_results(
    workers: dict[str, Worker], seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each worker found, within `seconds` for all of them; those that have not ended then are
    killed."""
    until = time.monotonic() + max(LEAST_SECONDS, seconds)
    for name, worker in workers.items():
        try:
            worker.process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
            yield name, {"ok": False, "error": "compiling did not end in time"}
        else:
            yield name, found_by(worker)


def found_by(worker: Worker) -> dict[str, Any]:
    """The line that a worker printed last, or the last line of its error."""
    texts = (path.read_text(errors="replace") for path in (worker.output, worker.errors))
    printed, errors = (text.strip().splitlines() for text in texts)
    if worker.process.returncode != 0 or not printed:
        return {"ok": False, "error": (errors or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(printed[-1])
    return found


def cases(call: Call, folder: Path) -> int:
    """The compiled ones run in `folder` beside all others."""
    record = call.record("right")
    workers = start_compiled(call, folder)
    device = call.device
    for case, check in (*fused_cases(device), *triton_cases(device), *model_cases(device)):
        record.run(case, check)
    for name, found in compiled_results(workers, record.seconds_left):
        record.add(f"compiled {name}", **found)
    record.finish()
    return int(not all(case["ok"] for case in record.cases))


def main() -> int:
    call = call_of(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        return cases(call, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
