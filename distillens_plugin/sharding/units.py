"""What FSDP2 gathers at a time: one block of the model that is being sharded."""

from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.probe import unwrap


def make_blocks_the_units(accelerator: Accelerator, model: nn.Module) -> None:
    """Tells accelerate's plugin the model's own kind of blocks; call it before each model.

    accelerate keeps the blocks of the first model that it shards, and student and teacher may be of
    different architectures; for some of these transformers names none (`_no_split_modules`).
    """
    blocks = unwrap(model).get_submodule(lens_of(model).blocks_path).children()
    plugin = accelerator.state.fsdp_plugin
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks})
