"""How many tokens a model has positions for."""

from typing import Any

from torch import nn

from eval_harness.errors import DistillensError

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def num_positions(config: Any) -> int | None:
    """Longest prompt and answer together, in tokens; None where the config sets no limit.

    Args:
        config: of a transformers model.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in _NAMES:
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def check_positions(
    role: str,
    model: nn.Module | None,
    train: Any,
    validation: Any,
    recipe: Any,
) -> None:
    """Learned position embeddings fail with an index error beyond their end; others degrade."""
    config = getattr(model, "config", None)
    limit = num_positions(config) if config is not None else None
    for name, data in (("train", train), ("validation", validation)):
        longest = max(data.lengths) if data is not None else 0
        if limit is not None and longest > limit:
            where = recipe.where(f"datasets.{name}")
            raise DistillensError(
                f"{where}: the longest row has {longest} tokens, but the {role} has {limit} "
                "positions; "
                f"set max_length to {limit} or less"
            )
