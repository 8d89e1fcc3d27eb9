"""The model that a config describes, built without weights and compared with the stored shapes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.checkpoint_files import StoredTensor
from eval_harness.shared.model_folder.foreign_errors import foreign_errors

# Types by safetensors' names and by torch's.
_WHOLE_NUMBERS = re.compile(r"BOOL|[IU]\d+|torch\.(bool|u?int\d+)")


def empty_model(config: Any, *, trust_remote_code: bool = False) -> Any:
    """A causal language model on the meta device: shapes and modules, no memory.

    Args:
        config: a transformers config whose numbers `config_files.check_config` has seen.
        trust_remote_code: the model's own code may run; some models cannot be built without it.
    Raises:
        DistillensError: transformers cannot build a causal language model from it.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    message = f"no causal language model can be built from this {config.model_type!r} config"
    with foreign_errors(message), torch.device("meta"), no_init_weights():
        # If trust is not stated and a config names code, transformers asks on standard input.
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def check_memory(model: Any, bytes_per_number: int) -> None:
    """Refuses a model that does not fit in this machine's memory: loading it would end the process.

    Args:
        model: on the meta device.
    Raises:
        DistillensError: gives both sizes.
    """
    needed = sum(parameter.numel() for parameter in model.parameters()) * bytes_per_number
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise DistillensError(
            f"its parameters need {needed / 1e9:.1f} GB, but this machine has {there / 1e9:.1f} GB "
            "of memory"
        )


def vocabulary_rows(model: Any) -> int | None:
    """Rows of the input embedding, that is, how many ids it knows; None if there is none."""
    try:
        weight = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return None
    return int(weight.shape[0])


def check_shapes(folder: Path, model: Any, stored: Mapping[str, StoredTensor]) -> None:
    """Refuses stored tensors whose shape or type is not that of their parameter.

    Only names that both sides have are compared; what transformers renames or packs while loading
    is left to its own report.

    Raises:
        DistillensError: names the first such tensor, its file and both shapes or types.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return
    own_tensors = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in own_tensors.items()}
    prefix = f"{model.base_model_prefix}."
    vocabulary = _vocabulary_names(model)
    for name, tensor in stored.items():
        own = _own_name(name, prefix, expected)
        if own is None:
            continue
        if _WHOLE_NUMBERS.fullmatch(tensor.dtype) and own_tensors[own].is_floating_point():
            raise DistillensError(
                f"{tensor.file}: {name} holds integers ({tensor.dtype}), expected floating-point "
                "numbers, since config.json has no quantization_config"
            )
        if tensor.shape == expected[own]:
            continue
        # Some checkpoints store the matrices of their experts transposed.
        if len(tensor.shape) > 2 and sorted(tensor.shape) == sorted(expected[own]):
            continue
        hint = "config.json and the weights belong to different models"
        if own in vocabulary and tensor.shape[1:] == expected[own][1:]:
            hint = (
                f"config.json says vocab_size = {expected[own][0]}, but the weights have "
                f"{tensor.shape[0]} ids"
            )
        raise DistillensError(
            f"{tensor.file}: {name} has shape {list(tensor.shape)}, expected "
            f"{list(expected[own])} for {type(model).__name__}; {hint}"
        )


def _own_name(name: str, prefix: str, expected: Mapping[str, Any]) -> str | None:
    """The model's name for a stored tensor: checkpoints of the bare body lack the prefix."""
    for candidate in (name, prefix + name, name.removeprefix(prefix)):
        if candidate in expected:
            return candidate
    return None


def _vocabulary_names(model: Any) -> set[str]:
    modules = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if id(module) in modules
        for name in ("weight", "bias")
    }
