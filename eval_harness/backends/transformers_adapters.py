"""Adapters on transformers' models: how one is put on, and which ones can take turns on a base."""

from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.files.json_files import read_json_object
from eval_harness.shared.model_folder.identity import ModelFiles

_MAX_CONFIG_BYTES = 10_000_000
# Other initialisations change the base's weights, even where the adapter's own are then loaded.
_PLAIN_STARTS = (None, True, False, "gaussian")
# What an adapter with these puts on the base does not come off it.
_REPLACING = ("modules_to_save", "trainable_token_indices", "target_parameters")


def with_adapter(model: Any, facts: ModelFiles) -> Any:
    """The model with the adapter of `facts`.

    Raises:
        DistillensError: peft is not installed, or parts of the model are on disk.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise DistillensError(
            'peft=... needs the package peft; run pip install -e ".[peft]" in a clone'
        ) from error
    if "disk" in (getattr(model, "hf_device_map", None) or {}).values():
        raise DistillensError(
            f"{facts.name}: peft cannot adapt a model whose parts are on disk; merge the adapter "
            "into the weights, or give device_map and max_memory under which it fits"
        )
    # Not merged: rounding W + BA to bfloat16 would not evaluate the model that was trained.
    return PeftModel.from_pretrained(model, str(facts.adapter))


def sharing_key(facts: ModelFiles, arguments: dict[str, Any]) -> str | None:
    """See `Backend.sharing_key`: plain LoRA adapters, which leave their base as it was."""
    if facts.adapter is None:
        return None
    config = read_json_object(facts.adapter / "adapter_config.json", max_bytes=_MAX_CONFIG_BYTES)
    is_plain = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none"
    start = config.get("init_lora_weights")
    if not is_plain or start not in _PLAIN_STARTS or any(config.get(key) for key in _REPLACING):
        return None
    ends = [*facts.stop_token_ids, facts.tokenizer.pad_token_id]
    return digest({"base": facts.identity["files"], "arguments": arguments, "ends": ends})
