"""Right on this device: the fused walk against float64, and training steps against the CPU's.

Every divergence also runs compiled, each in a process of its own beside the rest: compiling is
what takes the time.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from right_fused import fused_cases
from right_models import model_cases
from right_triton import triton_cases
from stage import Call, call_of

from distillens_plugin.divergences import DIVERGENCES

Workers = dict[str, subprocess.Popen[str]]


def start_compiled(call: Call) -> Workers:
    """A process for each divergence that is compiled; on a CPU one, which is enough of a trial."""
    names = [*DIVERGENCES, "cross_entropy"] if not call.tiny else ["jsd"]
    script = Path(__file__).with_name("right_compiled.py")
    return {
        name: subprocess.Popen(
            [sys.executable, str(script), name, call.device.type],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    }


def compiled_result(name: str, worker: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """What a worker printed last.

    Raises:
        RuntimeError: it failed, or did not end in time.
    """
    try:
        output, errors = worker.communicate(timeout=max(5.0, seconds))
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.communicate()
        raise RuntimeError(f"{name}: compiling did not end in time") from None
    if worker.returncode != 0:
        raise RuntimeError((errors.strip().splitlines() or ["no message"])[-1])
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def main() -> int:
    call = call_of(__doc__ or "")
    record = call.record("right")
    workers = start_compiled(call)
    device = call.device
    for case, check in (*fused_cases(device), *triton_cases(device), *model_cases(device)):
        record.run(case, check)
    for name, worker in workers.items():
        try:
            found = compiled_result(name, worker, record.seconds_left)
            record.add(f"compiled {name}", **found)
        except RuntimeError as error:
            record.add(f"compiled {name}", ok=False, error=str(error))
    record.finish()
    return int(not all(case["ok"] for case in record.cases))


if __name__ == "__main__":
    sys.exit(main())
