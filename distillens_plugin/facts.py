"""What a model's config alone tells, without weights: layers, width, vocabulary, block path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class ModelFacts:
    """num_layers blocks under the path `blocks` (None: not recognised), width D, vocabulary V."""

    num_layers: int
    width: int
    vocab_size: int
    tied: bool
    blocks: str | None


def block_lists(model: nn.Module) -> list[str]:
    """Paths of the module lists that could be the blocks, likeliest first.

    As many modules as the config has layers, all of one class, not inside another such list; the
    one with the most parameters first.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    num_layers = getattr(text, "num_hidden_layers", None)
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) > 0
            and len(module) == (num_layers or len(module))
            and len({type(child) for child in module}) == 1
            and not any(path.startswith(f"{outer}.") for outer in found)
        ):
            found[path] = sum(parameter.numel() for parameter in module.parameters())
    return sorted(found, key=lambda path: -found[path])


def facts_from_config(config: Mapping[str, Any] | Any) -> ModelFacts:
    """Builds the model on the meta device (no memory, no weights) and looks at its shape.

    Args:
        config: a transformers config, or the content of a config.json.
    Raises:
        DistillensError: the config has no known `model_type`, or no causal LM can be built from it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if isinstance(config, Mapping):
        fields = dict(config)
        model_type = fields.pop("model_type", None)
        if not isinstance(model_type, str):
            raise DistillensError("the model's config has no model_type, e.g. model_type: gpt2")
        try:
            config = AutoConfig.for_model(model_type, **fields)
        except (ValueError, TypeError) as error:
            raise DistillensError(f"the model's config ({model_type}): {error}") from error
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, TypeError) as error:
        raise DistillensError(
            f"no causal language model can be built from a {config.model_type!r} config: {error}"
        ) from error
    blocks = block_lists(model)
    text = config.get_text_config()
    head = model.get_output_embeddings()
    return ModelFacts(
        num_layers=len(model.get_submodule(blocks[0])) if blocks else text.num_hidden_layers,
        width=text.hidden_size,
        vocab_size=len(head.weight) if head is not None else text.vocab_size,
        tied=bool(config.tie_word_embeddings),
        blocks=blocks[0] if blocks else None,
    )
