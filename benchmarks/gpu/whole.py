"""The quickstart on this device: its losses beside the CPU's, and a killed run that resumes.

`whole.py --store-cpu` runs it on a CPU and stores what it gave in whole_cpu.json.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from records import Fields
from stage import Call, call_of

STORED = Path(__file__).with_name("whole_cpu.json")
# A few epochs of few rows: what is compared is the path, not a result.
SHORT = (
    *("train.num_steps=null", "train.num_epochs=3", "datasets.train.num_rows=96", "log_every=4"),
    *("samples.num_rows=1", "samples.max_new_tokens=8"),
)
KEYS = ("loss", "kd", "lens", "grad_norm", "validation_loss")
# Relative. Steps multiply differences: float32 sums in another order, through 36 steps of AdamW.
FIRST_BOUND, LAST_BOUND = 2e-3, 3e-2
RESUME_BOUND = 1e-2


def start(folder: Path, device: str, *more: str) -> subprocess.Popen[bytes]:
    """The quickstart in a process of its own; what it prints is in `<folder>.log`."""
    command = [sys.executable, "-m", "distillens_plugin.run", "quickstart", *more]
    for change in SHORT:
        command += ["--set", change]
    environment = dict(os.environ)
    if device == "cpu":
        environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--output_dir", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def ended(run: subprocess.Popen[bytes], folder: Path, seconds: float) -> int:
    """Its exit code.

    Raises:
        RuntimeError: it failed by itself, or did not end in time.
    """
    log = folder.with_suffix(".log")
    try:
        run.wait(timeout=max(5.0, seconds))
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
        raise RuntimeError(f"no end in {seconds:.0f} s: {tail_of(log)}") from None
    if run.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"exit code {run.returncode}: {tail_of(log)}")
    return run.returncode


def tail_of(log: Path) -> str:
    """The last of what a run printed."""
    return log.read_text(encoding="utf-8", errors="replace")[-250:]


def lines(folder: Path) -> list[Fields]:
    """metrics.jsonl."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def kept(metrics: list[Fields]) -> list[Fields]:
    """The figures to compare, without times."""
    return [{k: line[k] for k in ("step", *KEYS) if k in line} for line in metrics]


def compare(found: list[Fields], expected: list[Fields]) -> Fields:
    """The largest relative differences of the first trained line, and of all."""
    if [sorted(line) for line in found] != [sorted(line) for line in expected]:
        raise RuntimeError(f"other lines: {len(found)} found, {len(expected)} expected")
    gaps = [
        max(abs(a[k] / b[k] - 1) for k in KEYS if k in b)
        for a, b in zip(found, expected, strict=True)
    ]
    return {
        "first": max(gaps[:2]),
        "all": max(gaps),
        "last_validation": found[-1]["validation_loss"],
    }


def kill_after_first_epoch(run: subprocess.Popen[bytes], folder: Path, seconds: float) -> None:
    """Kills a run as soon as it could be resumed.

    Raises:
        RuntimeError: it ended before.
    """
    until = time.monotonic() + seconds
    while run.poll() is None and time.monotonic() < until:
        if (folder / "state" / "manifest.json").exists():
            run.kill()
            break
        time.sleep(0.005)
    if ended(run, folder, 5) == 0:
        raise RuntimeError("the run ended before it was killed")


def cases(call: Call, folder: Path) -> int:
    """The whole run and the killed one side by side, then the resumed one."""
    record = call.record("whole")
    device = call.device.type
    whole, killed = start(folder / "whole", device), start(folder / "killed", device)

    def against_cpu() -> Fields:
        ended(whole, folder / "whole", record.seconds_left)
        found = kept(lines(folder / "whole"))
        stored = json.loads(STORED.read_text(encoding="utf-8"))
        gaps = compare(found, stored["metrics"])
        ok = gaps["first"] < FIRST_BOUND and gaps["all"] < LAST_BOUND
        return {"ok": ok, **gaps, "values": found}

    def resumed() -> Fields:
        resuming = start(folder / "killed", device, "--resume")
        ended(resuming, folder / "killed", record.seconds_left)
        found, expected = (kept(lines(folder / name)) for name in ("killed", "whole"))
        gaps = compare(found, expected)
        return {"ok": gaps["all"] < RESUME_BOUND, **gaps}

    def kill() -> Fields:
        kill_after_first_epoch(killed, folder / "killed", record.seconds_left)
        return {"lines": len(lines(folder / "killed"))}

    killed_in_time = record.run("quickstart: killed in its second epoch", kill)
    record.run("quickstart: losses beside the CPU's", against_cpu)
    if killed_in_time is not None:
        record.run("quickstart: --resume beside the whole run", resumed)
    for run in (whole, killed):
        if run.poll() is None:
            run.kill()
            run.wait()
    record.finish()
    return int(not all(case["ok"] for case in record.cases))


def store_cpu(folder: Path) -> int:
    """Runs on a CPU and stores the figures."""
    import torch

    run = start(folder / "whole", "cpu")
    ended(run, folder / "whole", 600)
    stored: Fields = {"torch": torch.__version__, "changes": list(SHORT)}
    stored["metrics"] = kept(lines(folder / "whole"))
    STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return 0


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:] == ["--store-cpu"]:
            return store_cpu(Path(folder))
        return cases(call_of(__doc__ or ""), Path(folder))


if __name__ == "__main__":
    sys.exit(main())
