"""The elementwise pass through torch.compile, for GPUs: few kernels instead of a dozen passes.

The code is the same as on a CPU (blocks.py); it is traced with plain allocations, which the
compiler fuses away. If compiling or its first run fails, the same code runs uncompiled, with one
warning.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch

from distillens_plugin.divergences.protocol import FusedDivergence
from distillens_plugin.fused.blocks import BlockResult, cross_entropy_block, divergence_block

Block = Callable[..., BlockResult]


class CompiledBlock:
    """A block function that compiles itself on first use, or runs uncompiled if that fails."""

    def __init__(self, function: Block, name: str) -> None:
        self.name = name
        self.eager = function
        # Chunks differ in their number of rows, and a new number must not compile again.
        self.function: Block = torch.compile(function, dynamic=True)

    def __call__(self, *args: Any, **kwargs: Any) -> BlockResult:
        try:
            return self.function(*args, **kwargs)
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
            return self.function(*args, **kwargs)


@lru_cache(maxsize=64)
def compiled_divergence(divergence: FusedDivergence) -> CompiledBlock:
    """`divergence_block` of this divergence, compiled."""
    function = partial(divergence_block, divergence, check_on_host=False)
    return CompiledBlock(function, divergence.name)


@lru_cache(maxsize=1)
def compiled_cross_entropy() -> CompiledBlock:
    """`cross_entropy_block`, compiled."""
    return CompiledBlock(partial(cross_entropy_block, check_on_host=False), "cross_entropy")
