"""Which tokens end an answer: those that training puts at the end of a response."""

from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from distillens_plugin.data.dataset import InstructionDataset
from distillens_plugin.lens.probe import plain_model
from distillens_plugin.models.generation_settings import valid_settings


def end_token_ids(
    tokenizer: PreTrainedTokenizerBase, *datasets: InstructionDataset | None
) -> tuple[int, ...]:
    """The tokenizer's end token and any others that end a response in the data sets, each once.

    The model's own files may name others (a base model under its chat version's tokenizer): those
    are not in the training data.

    Args:
        datasets: None is left out.
    """
    found = [tokenizer.eos_token_id]
    for dataset in datasets:
        found += dataset.end_ids if dataset is not None else ()
    return tuple(dict.fromkeys(found))


def set_special_tokens(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, end_ids: tuple[int, ...] | None = None
) -> None:
    """Sets the training data's end and padding tokens in configuration and generation settings.

    Generation settings that could then not be saved are left out: see `valid_settings`.

    Args:
        end_ids: `end_token_ids`; None is the tokenizer's end token alone.
    """
    ends = list(end_ids or [tokenizer.eos_token_id])
    plain: Any = plain_model(model)
    for settings in (plain.config, plain.config.get_text_config(), plain.generation_config):
        if settings is not None:
            settings.pad_token_id = tokenizer.pad_token_id
            settings.eos_token_id = ends[0] if len(ends) == 1 else ends
    if plain.generation_config is not None:
        plain.generation_config, _ = valid_settings(plain.generation_config)
