"""Times and peak memory of calls on a device, warmed up, as medians."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

MEBIBYTE = 2**20


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """One call: by the GPU's own events, or by the clock on a CPU."""
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)  # type: ignore[no-any-return]


def measure(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    reset: Callable[[], object] | None = None,
    least: int = 3,
    most: int = 15,
    seconds: float = 0.8,
) -> dict[str, Any]:
    """Median and spread in ms of calls that do the same on different inputs, taken in turn.

    Peak memory is what one call holds beyond what was held before it, in MiB; None on a CPU. What
    a call leaves behind and the next one begins by dropping, such as gradients, would count as held
    before: `reset` drops it.
    """
    peak: float | None = None
    calls[0]()
    if device.type == "cuda":
        torch.cuda.synchronize()
        if reset is not None:
            reset()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        calls[0]()
        torch.cuda.synchronize()
        peak = (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
    for call in calls[1:]:
        call()
    taken: list[float] = []
    until = time.monotonic() + seconds
    while len(taken) < least or (len(taken) < most and time.monotonic() < until):
        taken.append(milliseconds(calls[len(taken) % len(calls)], device))
    return {
        "ms": statistics.median(taken),
        "min_ms": min(taken),
        "runs": len(taken),
        "peak_mib": None if peak is None else round(peak),
    }
