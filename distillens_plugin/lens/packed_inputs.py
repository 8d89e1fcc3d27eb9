"""How packs are given to a model whose attention is flash attention.

Legend: B batch, T tokens.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PretrainedConfig

from distillens_plugin.lens.probe import plain_model


def packed_inputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A batch of packs [B, T] as one row [1, B * T] for flash attention; else as it is.

    Flash attention reads where rows begin off the positions, and in a batch of one row only
    (transformers' `_is_packed_sequence`). The other implementations build a mask, whose size is
    the square of a row's. Flattened, the hidden states are those of the batch.
    """
    if "position_ids" not in inputs or "attention_mask" in inputs or not _is_flash(model):
        return inputs
    shape = inputs["input_ids"].shape
    return {
        key: value.reshape(1, -1) if value.shape == shape else value
        for key, value in inputs.items()
    }


def _is_flash(model: nn.Module) -> bool:
    config = plain_model(model).config
    assert isinstance(config, PretrainedConfig)
    text = config.get_text_config()
    # flash_attention_2 and 3, and the Hub's kernels of these names.
    return "flash" in str(getattr(text, "_attn_implementation", None))
