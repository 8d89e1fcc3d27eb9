"""How many tokens a model has positions for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def num_positions(config: "PretrainedConfig") -> int | None:
    """Longest prompt and answer together, in tokens; None if the config sets no limit.

    Args:
        config: of a transformers model.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in _NAMES:
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
