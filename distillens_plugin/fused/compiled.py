"""The elementwise pass through torch.compile, for GPUs: few kernels instead of a dozen passes.

If compiling or its first run fails, the same code runs uncompiled, with one warning.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch

from distillens_plugin.fused.segment import SegmentKind, SegmentResult, segment_block

Segment = Callable[..., SegmentResult]


class CompiledSegment:
    """A function that compiles itself on first use, or runs uncompiled if that fails."""

    def __init__(self, function: Segment, name: str) -> None:
        self.name = name
        self.eager = function
        # Chunks differ in their number of rows, and a new number must not compile again.
        self.function: Segment = torch.compile(function, dynamic=True)

    def __call__(self, *args: Any) -> SegmentResult:
        try:
            return self.function(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.function is self.eager:
                raise
            reason = str(error).strip().splitlines()
            warnings.warn(
                f"the fused lens could not compile {self.name} ({type(error).__name__}: "
                f"{reason[0] if reason else 'no message'}); it runs uncompiled: slower, with the "
                "same results",
                RuntimeWarning,
                stacklevel=2,
            )
            self.function = self.eager
            return self.function(*args)


@lru_cache(maxsize=64)
def compiled_segment(kind: SegmentKind) -> CompiledSegment:
    """`segment_block` of this kind, compiled."""

    def run(*args: Any) -> SegmentResult:
        return segment_block(kind, *args)

    # Code of its own: the compiler counts recompilations by code, and gives up after eight.
    code = run.__code__.replace(co_name=f"segment_{kind.name.replace('+', '_')}")
    own = FunctionType(code, run.__globals__, code.co_name, None, run.__closure__)
    return CompiledSegment(own, kind.name)
