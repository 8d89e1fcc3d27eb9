"""Everything that needs a GPU, in order of worth: `python benchmarks/gpu/all.py --out DIR`.

    --minutes 8         time for all stages
    --device cuda|cpu   --tiny: every stage to its end on a CPU, in a few minutes
    --stages right,fast,steps,whole     the default; worth, a study of minutes, only if it is named

Each stage is a process of its own (an illegal memory access ends its process, not the others) with
a share of the time, and writes DIR/<stage>.json after every case; its output is DIR/<stage>.log.
What a stage has started ends with it.
The last thing printed is one table. Exit code 1 if a stage failed or a case that must be right was
not.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stage import add_arguments
from table import table_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Seconds of eight minutes.
SHARES = {"right": 95, "fast": 110, "steps": 110, "whole": 75, "worth": 420}
DEFAULT = ("right", "fast", "steps", "whole")
# A case that has begun may end.
GRACE = 25


def seconds_for(stages: list[str], left: float) -> float:
    """Of the first of these stages: its share of what is left, less a grace for each.

    So a stage that ends late takes nothing from those that are yet to come.
    """
    return (left - GRACE * len(stages)) * SHARES[stages[0]] / sum(SHARES[name] for name in stages)


def run_stage(name: str, seconds: float, given: argparse.Namespace, out: Path) -> int:
    """Runs a stage in a process of its own; its exit code, 124 if it ran out of time."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--device", given.device]
    command += ["--out", str(out), "--seconds", f"{seconds:.0f}"]
    command += ["--tiny"] if given.tiny else []
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        stage = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            return stage.wait(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            # Compilers and runs of its own too: they would share the next stage's device.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(stage.pid, signal.SIGKILL)
            stage.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    add_arguments(parser)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--stages", default=",".join(DEFAULT), help="default: %(default)s")
    given = parser.parse_args()
    # A stage has a session of its own, which no signal to this process reaches by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stages = given.stages.split(",")
    unknown = [name for name in stages if name not in SHARES]
    if unknown:
        parser.error(f"--stages: {unknown[0]!r}, expected some of {','.join(SHARES)}")
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * given.minutes
    failed = False
    for index, name in enumerate(stages):
        seconds = seconds_for(stages[index:], ends - time.monotonic())
        if seconds < 10:
            print(f"{name}: not started, the time is up", flush=True)
            failed = True
            continue
        began = time.monotonic()
        code = run_stage(name, seconds, given, out)
        failed = failed or code != 0
        print(f"{name}: exit code {code}, {time.monotonic() - began:.0f} s", flush=True)
        if code not in (0, 1):
            print((out / f"{name}.log").read_text(encoding="utf-8")[-2500:], flush=True)
    found = [out / f"{name}.json" for name in stages]
    stored = [json.loads(file.read_text(encoding="utf-8")) for file in found if file.exists()]
    print(table_of(stored))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
