"""Everything that needs a GPU, in order of worth: `python benchmarks/gpu/all.py --out DIR`.

    --minutes 8         time for all stages
    --device cuda|cpu   --tiny: every stage to its end on a CPU, in a few minutes
    --stages right,fast,steps,whole,worth       worth by default only where its pieces are

Each stage is a process of its own (an illegal memory access ends its process, not the others) with
a share of the time, and writes DIR/<stage>.json after every case; its output is DIR/<stage>.log.
The last thing printed is one table. Exit code 1 if a stage failed or a case that must be right was
not.
"""

import argparse
import json
import os
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
# A case that has begun may end.
GRACE = 25


def run_stage(name: str, seconds: float, given: argparse.Namespace, out: Path) -> int:
    """Runs a stage in a process of its own; its exit code, 124 if it ran out of time."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--device", given.device]
    command += ["--out", str(out), "--seconds", f"{seconds:.0f}"]
    command += ["--tiny"] if given.tiny else []
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        try:
            done = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=seconds + GRACE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    add_arguments(parser)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--stages", help="default: all; worth only if it has what it needs")
    given = parser.parse_args()
    ready = given.tiny or (ROOT / ".worth" / "teacher").is_dir()
    default = [name for name in SHARES if ready or name != "worth"]
    stages = default if given.stages is None else given.stages.split(",")
    unknown = [name for name in stages if name not in SHARES]
    if unknown:
        parser.error(f"--stages: {unknown[0]!r}, expected some of {','.join(SHARES)}")
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * given.minutes
    factor = 60 * given.minutes / sum(SHARES[name] + GRACE / 2 for name in stages)
    failed = False
    for name in stages:
        seconds = min(SHARES[name] * max(1.0, factor), ends - time.monotonic() - GRACE)
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
