"""Our lens by each of its ways through a chunk: the Triton kernel in several shapes, the compiled
pass, and chunks of several sizes."""

from collections.abc import Callable
from functools import partial

import torch
from fast_problem import FLOOR_ROWS, Problem, floor, fused, timed
from records import Fields, Record

from distillens_plugin.fused import triton_segment

CHUNKS = (1024, 2048, 4096, 8192)
# Columns at a time, and warps.
SHAPES = ((1024, 8), (2048, 8), (2048, 16), (4096, 16), (4096, 32), (8192, 16), (8192, 32))


def through_kernel(device: torch.device, run: Callable[[], Fields]) -> Fields:
    """What `run` measures, which is not ok if the kernel did not run on a GPU.

    A kernel that fails hands over to the compiled pass, for the rest of the process: its time would
    stand under the kernel's name.
    """
    triton_segment.State.failed = False
    before = triton_segment.launches()
    fields = run()
    if device.type != "cuda":
        return fields
    launches = triton_segment.launches() - before
    if triton_segment.State.failed or launches == 0:
        error = "the Triton kernel failed or was not called, this is the compiled pass's time"
        return {**fields, "ok": False, "launches": launches, "error": error}
    return {**fields, "launches": launches}


def compiled_pass(record: Record, where: str, made: list[Problem]) -> None:
    """The compiled pass in the kernel's place."""
    triton_segment.ENABLED = False
    try:
        record.run(f"{where}: ours, compiled pass", partial(timed, made, fused, most=5))
    finally:
        triton_segment.ENABLED = True


def tuned(record: Record, where: str, made: list[Problem]) -> None:
    """The kernel in several shapes, and chunks of several sizes, ours and the floor's."""
    chosen = triton_segment.BLOCK, triton_segment.NUM_WARPS
    try:
        for shape in SHAPES:
            triton_segment.BLOCK, triton_segment.NUM_WARPS = shape
            one = partial(through_kernel, record.device, partial(timed, made, fused, most=5))
            record.run(f"{where}: ours, blocks of {shape[0]} by {shape[1]} warps", one)
    finally:
        triton_segment.BLOCK, triton_segment.NUM_WARPS = chosen
    for chunk in CHUNKS:
        time = partial(timed, made, partial(fused, chunk_rows=chunk), most=5)
        one = partial(through_kernel, record.device, time)
        record.run(f"{where}: ours, chunks of {chunk}", one)
    for chunk in FLOOR_ROWS:
        time = partial(timed, made, partial(floor, chunk_rows=chunk), most=5)
        record.run(f"{where}: floor, chunks of {chunk}", time)
