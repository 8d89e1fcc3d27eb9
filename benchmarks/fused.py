"""The bars of the fused lens, each printed as a ratio: `python benchmarks/fused.py [PART ...]`.

Parts: floor, memory, baseline, liger, accuracy, peaked (default: all). Everything runs on one CPU
thread. Times are process CPU time, medians over rounds in which the compared variants alternate.
Memory is the peak resident size during the call minus the size before it, each in its own process.
If a bar is missed, its line says NOT MET and the exit code is 1.

Liger-Kernel is a dependency of this benchmark only: `pip install liger-kernel`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from fused_variants import (
    POSITIONS_PER_SUPERVISED,
    Problem,
    fused,
    make_floor,
    make_liger,
    reference_style,
    supervised_first,
)

from distillens_plugin.fused import lens_divergence
from distillens_plugin.fused.plan import default_chunk_rows

VOCAB, LARGE_VOCAB, PAIRS = 50257, 151936, 5
HELD = ("jsd", "fkl", "rkl")
REPORTED = ("jeffreys", "skew_fkl", "skew_rkl", "tvd", "alpha_beta", "akl")
MEGABYTE = 1e6
# The most memory of one measured process: the reference at N 256 needs 10 GB.
MEMORY_RESERVE_GB = 2.0


def timed(call: Callable[[], object]) -> float:
    """Process CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def alternate(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each variant over rounds in which they alternate."""
    for call in variants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            seconds[name].append(timed(call))
    return {name: median(values) for name, values in seconds.items()}


def resident_mb(key: str) -> float:
    """VmRSS or VmHWM of this process."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{key}:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) * 1024 / MEGABYTE


def peak_extra_mb(call: Callable[[], object]) -> float:
    """Peak resident size during the call, minus the size before it."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_mb("VmRSS")
    call()
    return resident_mb("VmHWM") - before


def afresh(problem: Problem, call: Callable[[Problem], object]) -> None:
    """One training step: no gradients are kept from the step before."""
    problem.clear()
    call(problem)


VARIANTS: dict[str, Callable[[Problem], object]] = {
    "fused": partial(fused, divergence="jsd"),
    "reference": reference_style,
    "supervised": supervised_first,
    "liger eager": lambda problem: make_liger(compiled=False)(problem),
    "liger compiled": lambda problem: make_liger(compiled=True)(problem),
}


def measure_memory(variant: str, rows: int, vocab: int) -> None:
    """Runs in its own process; prints the peak in MB."""
    problem = Problem(rows, vocab)
    # A small call first: code, thread pools and compiled kernels are not the variant's memory.
    VARIANTS[variant](Problem(8, vocab=512))
    if variant == "liger compiled":
        VARIANTS[variant](problem)
        problem.clear()
    print(json.dumps(peak_extra_mb(lambda: VARIANTS[variant](problem))))


def memory_mb(variant: str, rows: int, vocab: int = VOCAB) -> float:
    """The peak of a variant, measured in its own process."""
    command = [sys.executable, __file__, "--measure", variant, str(rows), str(vocab)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"measuring {variant} with {rows} rows failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


class Report:
    """Prints a line for each ratio, and remembers whether any bar was missed."""

    def __init__(self) -> None:
        self.missed = 0

    def line(self, what: str, value: float, bar: float | None = None, unit: str = "x") -> None:
        verdict = ""
        if bar is not None:
            met = value <= bar
            self.missed += not met
            verdict = f"  bar {bar:.6g}: {'met' if met else 'NOT MET'}"
        print(f"{what:<66} {value:10.4g} {unit}{verdict}", flush=True)


def floor_part(report: Report) -> None:
    """Time against the matrix-product floor."""
    for rows, vocab, rounds, bar in (
        (64 * PAIRS, VOCAB, 9, 1.40),
        (256 * PAIRS, VOCAB, 5, 1.30),
        (1024 * PAIRS, VOCAB, 1, 1.30),
        (64 * PAIRS, LARGE_VOCAB, 3, None),
    ):
        problem = Problem(rows, vocab)
        floor = make_floor(problem)
        names = HELD + REPORTED if rows == 256 * PAIRS else HELD
        variants: dict[str, Callable[[], object]] = {"floor": floor}
        for name in names:
            variants[name] = partial(afresh, problem, partial(fused, divergence=name))
        seconds = alternate(variants, rounds)
        where = f"{rows} rows, V {vocab}"
        print(f"{where}: floor {seconds['floor'] / rows * 1e3:.2f} ms per row")
        for name in names:
            ratio = seconds[name] / seconds["floor"]
            report.line(f"{where}: {name} / floor", ratio, bar if name in HELD else None)


def memory_part(report: Report) -> None:
    """Peak extra memory against the bar, and its growth with rows."""
    over: dict[tuple[int, int], float] = {}
    for num_tokens, pairs in ((64, 5), (256, 1), (256, 5), (1024, 5)):
        rows = num_tokens * pairs
        chunk = min(rows, default_chunk_rows(VOCAB, torch.device("cpu"), torch.float32))
        rows_gradient = rows * 768 * 4 / MEGABYTE
        bar = VOCAB * 768 * 4 / MEGABYTE + rows_gradient + 2 * chunk * VOCAB * 4 / MEGABYTE + 32
        peak = memory_mb("fused", rows)
        over[num_tokens, pairs] = peak - rows_gradient
        report.line(f"N {num_tokens}, K {pairs}: peak extra memory", peak, bar, "MB")
    growth_n = over[1024, 5] / over[256, 5]
    report.line("peak less grad_h, N 1024 / N 256 (K 5)", growth_n, 1.05)
    report.line("peak less grad_h, K 5 / K 1 (N 256)", over[256, 5] / over[256, 1], 1.05)
    report.line(
        "N 64, V 151936: peak extra memory", memory_mb("fused", 320, LARGE_VOCAB), None, "MB"
    )


def baseline_part(report: Report) -> None:
    """Against reference-style code over all padded positions, at equal supervised tokens."""
    for num_tokens in (64, 256):
        rows = num_tokens * PAIRS
        needed = 2.6e-3 * rows * POSITIONS_PER_SUPERVISED + MEMORY_RESERVE_GB
        if free_gb() < needed:
            print(f"N {num_tokens}: skipped, needs {needed:.0f} GB free, found {free_gb():.0f}")
            continue
        all_positions = Problem(rows * POSITIONS_PER_SUPERVISED, VOCAB)
        supervised = Problem(rows, VOCAB)
        seconds = alternate(
            {
                "reference": partial(afresh, all_positions, reference_style),
                "fused": partial(afresh, supervised, VARIANTS["fused"]),
            },
            rounds=3 if num_tokens == 64 else 1,
        )
        all_positions.clear()
        speedup = seconds["reference"] / seconds["fused"]
        report.line(
            f"N {num_tokens}: fused / reference time ({speedup:.1f} x faster)", 1 / speedup, 0.2
        )
        peaks = {
            "fused": memory_mb("fused", rows),
            "reference": memory_mb("reference", rows * POSITIONS_PER_SUPERVISED),
        }
        ratio = peaks["fused"] / peaks["reference"]
        report.line(
            f"N {num_tokens}: fused / reference memory ({1 / ratio:.1f} x less)", ratio, 0.1
        )
    rows = 64 * PAIRS
    ratio = memory_mb("fused", rows) / memory_mb("supervised", rows)
    report.line("N 64: fused / plain autograd on supervised rows, memory", ratio)


def liger_part(report: Report) -> None:
    """Against Liger-Kernel's chunked JSD on the same rows."""
    try:
        eager, compiled = make_liger(compiled=False), make_liger(compiled=True)
    except ImportError as error:
        print(f"liger: skipped, {error}")
        return
    for num_tokens in (64, 256):
        problem = Problem(num_tokens * PAIRS, VOCAB)
        seconds = alternate(
            {
                "liger eager": partial(afresh, problem, eager),
                "liger compiled": partial(afresh, problem, compiled),
                "fused": partial(afresh, problem, VARIANTS["fused"]),
            },
            rounds=3,
        )
        mine = memory_mb("fused", problem.rows)
        for name in ("liger eager", "liger compiled"):
            what = f"N {num_tokens}: fused / {name}"
            report.line(f"{what}, time", seconds["fused"] / seconds[name], 1.0)
            report.line(f"{what}, memory", mine / memory_mb(name, problem.rows), 1.0)


def accuracy_part(report: Report) -> None:
    """Loss and gradients against float64; half precision against plain autograd in that type."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        narrow = Problem(32, VOCAB, dtype=dtype)
        wide = Problem(32, VOCAB, dtype=dtype)
        for tensor in ("hidden", "weight", "teacher_hidden", "teacher_weight"):
            exact = getattr(wide, tensor).detach().double()
            setattr(wide, tensor, exact.requires_grad_(tensor in ("hidden", "weight")))
        for name in HELD:
            errors = {}
            truth = gradients_of(lens_divergence.naive, wide, name)  # type: ignore[attr-defined]
            for form, call in (
                ("fused", lens_divergence),
                ("plain", lens_divergence.naive),  # type: ignore[attr-defined]
            ):
                found = gradients_of(call, narrow, name)
                errors[form] = [
                    ((a.double() - b).abs().max() / b.abs().max()).item()
                    for a, b in zip(found, truth, strict=True)
                ]
            what = f"{str(dtype)[6:]} {name}: "
            if dtype == torch.float32:
                report.line(f"{what}loss, relative error", errors["fused"][0], 5e-6, " ")
                report.line(f"{what}gradient, max norm", max(errors["fused"][1:]), 1e-4, " ")
                continue
            # Both round the same products, so the losses differ only by float32 sums.
            worse = errors["fused"][0] - errors["plain"][0]
            report.line(f"{what}loss, relative error over plain autograd's", worse, 5e-6, " ")
            for index, part in ((1, "grad_h"), (2, "grad_W")):
                ratio = errors["fused"][index] / errors["plain"][index]
                report.line(f"{what}{part} error, fused / plain", ratio, 1.05)


def gradients_of(call: Callable[..., torch.Tensor], problem: Problem, name: str) -> list:
    """Loss and both gradients."""
    problem.clear()
    loss = call(
        problem.hidden,
        problem.weight,
        problem.teacher_hidden,
        problem.teacher_weight,
        divergence=name,
    )
    return [loss.detach(), *torch.autograd.grad(loss, (problem.hidden, problem.weight))]


def peaked_part(report: Report) -> None:
    """Peaked logits: denormal numbers slow arithmetic down unless they are avoided."""
    smooth, peaked = Problem(320, VOCAB), Problem(320, VOCAB, spread=40.0)
    for name in HELD:
        seconds = alternate(
            {
                "smooth": partial(afresh, smooth, partial(fused, divergence=name)),
                "peaked": partial(afresh, peaked, partial(fused, divergence=name)),
            },
            rounds=3,
        )
        report.line(
            f"{name}: logits of std 40 / std 3, time", seconds["peaked"] / seconds["smooth"], 2.0
        )


def free_gb() -> float:
    """Memory that is available now."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found.group(1)) * 1024 / 1e9


PARTS: dict[str, Callable[[Report], None]] = {
    "floor": floor_part,
    "memory": memory_part,
    "baseline": baseline_part,
    "liger": liger_part,
    "accuracy": accuracy_part,
    "peaked": peaked_part,
}


def main() -> int:
    """Runs the given parts."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--measure"]:
        measure_memory(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    report = Report()
    for part in parser.parse_args().parts or PARTS:
        print(f"-- {part}: {PARTS[part].__doc__}")
        PARTS[part](report)
    print("all bars met" if not report.missed else f"{report.missed} bars NOT MET")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
