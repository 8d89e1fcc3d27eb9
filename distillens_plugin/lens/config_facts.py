"""Facts from a model's config alone, without weights: layers, width, vocabulary, block path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distillens_plugin.lens.positions import num_positions
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.config_files import check_config
from eval_harness.shared.model_folder.shapes import empty_model
from eval_harness.shared.near import near_names

if TYPE_CHECKING:
    from torch import nn

# Where a PeftModel with LoRA keeps the model it wraps.
PEFT_PREFIX = "base_model.model."
_FLOATS = ("Infinity", "-Infinity", "NaN")


@dataclass(frozen=True)
class ModelFacts:
    """num_layers blocks under the path `blocks` (None: not recognised), width D, vocabulary V,
    num_positions tokens at the longest (None: the config does not say).
    """

    num_layers: int
    width: int
    vocab_size: int
    tied: bool
    blocks: str | None
    num_positions: int | None


def block_lists(model: "nn.Module") -> list[str]:
    """Paths of the module lists that could be the blocks, likeliest first.

    Such a list has as many modules as the config has layers, and is not inside another one. Lists
    of one class come before mixed ones (in hybrid models), then those with the most parameters.
    """
    from torch import nn

    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    num_layers = getattr(text, "num_hidden_layers", None)
    found: dict[str, tuple[bool, int]] = {}
    for path, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) > 0
            and len(module) == (num_layers or len(module))
            and not any(path.startswith(f"{outer}.") for outer in found)
        ):
            size = sum(parameter.numel() for parameter in module.parameters())
            found[path] = (len({type(child) for child in module}) > 1, -size)
    return sorted(found, key=lambda path: found[path])


def facts_from_config(
    config: Mapping[str, Any] | Any, *, peft: bool = False, trust_remote_code: bool = False
) -> ModelFacts:
    """Builds the model on the meta device (no memory, no weights) and looks at its shape.

    Args:
        config: a transformers config, or the content of a config.json.
        peft: the model will be wrapped in a PeftModel (LoRA, an adapter): `blocks` is then a path
            on the PeftModel, as `find_anatomy` gives it.
        trust_remote_code: the model's own code may run.
    Raises:
        DistillensError: the config has no known `model_type`, numbers beyond every real model, or
            no causal LM can be built from it.
    """
    config = read_config(config) if isinstance(config, Mapping) else _checked(config)
    model = empty_model(config, trust_remote_code=trust_remote_code)
    blocks = block_lists(model)
    text = config.get_text_config()
    head = model.get_output_embeddings()
    return ModelFacts(
        num_layers=len(model.get_submodule(blocks[0])) if blocks else text.num_hidden_layers,
        width=text.hidden_size,
        vocab_size=len(head.weight) if head is not None else text.vocab_size,
        tied=bool(config.tie_word_embeddings),
        blocks=(PEFT_PREFIX if peft else "") + blocks[0] if blocks else None,
        num_positions=num_positions(config),
    )


def _checked(config: Any) -> Any:
    check_config(config.to_dict())
    return config


def read_config(fields: Mapping[str, Any]) -> Any:
    """A transformers config from the content of a config.json.

    Raises:
        DistillensError: no known `model_type`, or values that its config class refuses.
    """
    from transformers import CONFIG_MAPPING

    model_type = fields.get("model_type")
    if model_type is None:
        raise DistillensError("the model's config has no model_type, such as gpt2 or llama")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        hint = near_names(str(model_type), CONFIG_MAPPING)
        raise DistillensError(
            f"model_type = {model_type!r} is not one that transformers knows, such as gpt2{hint}"
        )
    check_config(fields)
    try:
        return CONFIG_MAPPING[model_type].from_dict(_decoded(fields))
    except Exception as error:  # config classes validate with exceptions of their own
        reason = " ".join(str(error).split())
        raise DistillensError(f"the model's config ({model_type}): {reason}") from error


def _decoded(value: Any) -> Any:
    """With the numbers that JSON lacks: transformers writes {"__float__": "Infinity"}."""
    if isinstance(value, Mapping):
        if list(value) == ["__float__"] and value["__float__"] in _FLOATS:
            return float(value["__float__"])
        return {key: _decoded(entry) for key, entry in value.items()}
    return [_decoded(entry) for entry in value] if isinstance(value, list) else value
