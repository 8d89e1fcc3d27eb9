"""The fused walk through the Triton kernel against float64; on a CPU there is no such kernel.

Legend: R rows, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from right_fused import Case, Problem, difference, verdict

from distillens_plugin.divergences import Divergence, make_divergence
from distillens_plugin.fused import triton_segment

ROWS, VOCAB, CHUNK = 300, 1003, 128
# What a case changes in its problem, beside the three divergences in both half-precision types.
OPTIONS: dict[str, dict[str, Any]] = {
    "softcap": {"softcap": 4.0},
    "scale": {"scale": 0.3},
    "larger student vocabulary": {"vocab": (1024, VOCAB)},
    "larger teacher vocabulary": {"vocab": (VOCAB, 1024)},
}


def triton_cases(device: torch.device) -> Iterator[Case]:
    """Every formula of the kernel in its types, and every option of a head that it takes."""
    if device.type != "cuda":
        return
    named = {
        "jsd": make_divergence("jsd"),
        "jsd 0.1": make_divergence("jsd", beta=0.1),
        "jsd 0.01": make_divergence("jsd", beta=0.01),
        "fkl": make_divergence("fkl"),
        "rkl": make_divergence("rkl"),
    }
    for dtype in (torch.bfloat16, torch.float16):
        for name, divergence in named.items():
            yield f"kernel {str(dtype)[6:]} {name}", checked(device, dtype, divergence)
        for what, options in OPTIONS.items():
            case = checked(device, dtype, named["jsd"], **options)
            yield f"kernel {str(dtype)[6:]} {what}", case


def checked(
    device: torch.device, dtype: torch.dtype, divergence: Divergence, **options: Any
) -> Callable[[], dict[str, Any]]:
    """A case: a walk in chunks, each of which the kernel must have computed."""

    def check() -> dict[str, Any]:
        problem = Problem(device, dtype, **{"rows": ROWS, "vocab": (VOCAB, VOCAB), **options})
        triton_segment.State.failed = False  # a case's failure is its own
        before = triton_segment.launches()
        groups = [problem.group(divergence, temperature=1.5)]
        errors = difference(problem, groups, compile_blocks=None, chunk_rows=CHUNK)
        found = verdict(errors, dtype, divergence.name)
        launches = triton_segment.launches() - before
        if launches != -(-ROWS // CHUNK):
            return {**found, "ok": False, "error": f"the kernel ran {launches} times, expected 3"}
        return found

    return check
