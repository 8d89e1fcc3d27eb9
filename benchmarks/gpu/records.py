"""What a stage measured, written after every case, and the machine that it ran on."""

import json
import platform
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Fields = dict[str, Any]


def machine(device: torch.device) -> Fields:
    """Names and versions that a figure is worth nothing without."""
    facts: Fields = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": platform.processor() or platform.machine(),
        "driver": None,
    }
    for name in ("transformers", "triton", "trl", "liger_kernel", "torchdistill"):
        facts[name] = version_of(name)
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
        facts["memory_gib"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=False)
        facts["driver"] = found.stdout.strip() or None
    return facts


def version_of(package: str) -> str | None:
    """Its installed version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def first_line(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


class Record:
    """The cases of a stage; its file is whole after each of them.

    A case that the time was not enough for has no verdict: its `ok` is None.

    Args:
        out: folder; the stage writes `<name>.json`, and `<name>.errors.txt` with tracebacks.
        seconds: after this long no further case is started.
    """

    def __init__(self, name: str, out: Path, device: torch.device, seconds: float) -> None:
        self.name, self.out, self.device = name, out, device
        self.started = time.monotonic()
        self.ends = self.started + seconds
        self.machine = machine(device)
        self.cases: list[Fields] = []
        self.complete = False
        out.mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def seconds_left(self) -> float:
        return self.ends - time.monotonic()

    @property
    def failed(self) -> list[str]:
        """The cases that ran and were not right."""
        return [case["case"] for case in self.cases if case["ok"] is False]

    def add(self, case: str, **fields: Any) -> None:
        """Writes a case that was measured elsewhere."""
        self.cases.append({"case": case, **fields})
        self.write()
        shown = {k: v for k, v in fields.items() if k not in ("values",)}
        print(f"[{time.monotonic() - self.started:6.1f} s] {case}: {shown}", flush=True)

    def run(self, case: str, measure: Callable[[], Fields]) -> Fields | None:
        """One case: what `measure` returns, or its error in one line; None if it has no figures."""
        if self.seconds_left <= 0:
            self.add(case, ok=None, not_run="the stage's time was up")
            return None
        began = time.monotonic()
        try:
            fields = measure()
        except Exception as error:
            with (self.out / f"{self.name}.errors.txt").open("a", encoding="utf-8") as file:
                file.write(f"== {case}\n{traceback.format_exc()}\n")
            self.add(case, ok=False, error=first_line(error))
            return None
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        took = round(time.monotonic() - began, 2)
        self.add(case, **{"ok": True, **fields, "case_seconds": took})
        return fields

    def finish(self) -> None:
        self.complete = True
        self.write()

    def write(self) -> None:
        """Replaces the file in one step, so that a killed stage leaves a whole one."""
        text = json.dumps(
            {
                "stage": self.name,
                "complete": self.complete,
                "seconds": round(time.monotonic() - self.started, 1),
                "machine": self.machine,
                "cases": self.cases,
            },
            indent=1,
        )
        part = self.out / f".{self.name}.json"
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(self.out / f"{self.name}.json")
