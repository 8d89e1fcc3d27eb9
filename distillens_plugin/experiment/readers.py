"""The lenses of models that are about to be sharded: found while they are whole.

With `cpu_ram_efficient_loading` only one process has weights; on the others a probe forward would
see nothing but zeros, so the first process tells them what it has found.
"""

from accelerate import Accelerator
from torch import nn

from distillens_plugin.lens.forward import reader_of
from distillens_plugin.lens.known_lenses import lens_of, remember
from distillens_plugin.lens.readout import Anatomy
from distillens_plugin.storage.main_process import on_main_process


def anatomy_on_all(model: nn.Module, accelerator: Accelerator, *, one_rank_reads: bool) -> Anatomy:
    """The anatomy of a whole model, and its hooks of `distillens.forward`.

    Args:
        one_rank_reads: only the first process has the model's weights.
    """
    if not one_rank_reads:
        reader_of(model)
        return lens_of(model).anatomy

    def find() -> tuple[Anatomy, bool]:
        reader = reader_of(model)
        return reader.lens.anatomy, reader.headless

    anatomy, headless = on_main_process(accelerator, find)
    if not accelerator.is_main_process:
        remember(model, anatomy)
        reader_of(model, headless=headless)
    return anatomy
