"""Which models one vLLM engine can serve in turn: adapters of a base, and weights of one shape."""

import json
from collections.abc import Sequence
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.model_folder.checkpoint_files import stored_tensors
from eval_harness.shared.model_folder.config_files import read_config
from eval_harness.shared.model_folder.identity import ModelFiles

# Keys of config.json that do not shape a model.
_NAMES = ("_name_or_path", "transformers_version")
# With these, what an engine holds is not the folder's weights as they are.
_OTHER_WEIGHTS = ("hf_overrides", "quantization", "speculative_config")
_PLAIN_FORMATS = (None, "auto", "safetensors")
# Of vLLM, for max_lora_rank.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def sharing_key(
    facts: ModelFiles, arguments: dict[str, Any], *, max_length: int, on_cpu: bool
) -> str | None:
    """See `Backend.sharing_key`.

    Args:
        on_cpu: whether vLLM runs there.
    """
    config = read_config(facts.folder)
    shared: dict[str, Any] = {"arguments": arguments}
    if "long_factor" in json.dumps(config):
        # LongRoPE has other positions in an engine with a long max_model_len.
        shared["max_length"] = max_length
    if facts.adapter is not None:
        return digest({**shared, "base": facts.identity["files"]})
    changed = any(arguments.get(key) is not None for key in _OTHER_WEIGHTS)
    is_own = "quantization_config" in config or "auto_map" in config
    if changed or is_own or arguments.get("load_format") not in _PLAIN_FORMATS:
        return None
    tensors = stored_tensors(facts.folder, config.get("transformers_weights"))
    if on_cpu and not any(name.endswith("lm_head.weight") for name in tensors):
        # vLLM's CPU build packs a tied unembedding once, and keeps it when weights are reloaded.
        return None
    shapes = {name: [tensor.dtype, *tensor.shape] for name, tensor in tensors.items()}
    plain = {key: value for key, value in config.items() if key not in _NAMES}
    return digest({**shared, "config": plain, "shapes": shapes})


def max_lora_rank(systems: Sequence[ModelFiles]) -> int:
    """The smallest rank that vLLM supports and that holds all these adapters.

    Raises:
        DistillensError: there is none.
    """
    needed = 0
    for facts in systems:
        assert facts.adapter is not None
        config = json.loads((facts.adapter / "adapter_config.json").read_text("utf-8"))
        rank = max([config.get("r", 8), *config.get("rank_pattern", {}).values()])
        if rank > _RANKS[-1]:
            raise DistillensError(
                f"{facts.adapter}: found rank {rank}, but vLLM takes at most {_RANKS[-1]}; use "
                "--model hf"
            )
        needed = max(needed, rank)
    return next(size for size in _RANKS if size >= needed)
