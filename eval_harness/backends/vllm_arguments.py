"""What `--model vllm` needs and takes, checked before any weights are read."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from eval_harness.backends.base import check_arguments
from eval_harness.backends.vllm_layout import check_devices, check_layout
from eval_harness.errors import DistillensError

INSTALL = 'pip install -e ".[vllm]" from a clone'
# Set by us from the model and the protocol; the refusal names what to give instead.
_OURS = {
    "model": "pretrained",
    "max_model_len": "max_length",
    "enable_lora": "peft",
    "logits_processors": "no_repeat_ngram_size in --gen_kwargs",
    "skip_tokenizer_init": "tokenizer",
    "seed": "--seed",
    "generation_config": "--gen_kwargs",
    "override_generation_config": "--gen_kwargs",
}


def check_usable() -> None:
    """Refuses an environment without vLLM, or with a vLLM that has no device to run on.

    Raises:
        DistillensError: gives the line that installs it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise DistillensError(f"--model vllm: vLLM is not installed; {INSTALL}, or use --model hf")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Else a model whose logits are NaN gets empty answers, and a table of scores.
    os.environ.setdefault("VLLM_RAISE_ON_LOGIT_NANS", "1")
    try:
        from vllm.platforms import current_platform

        device = current_platform.device_type
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise DistillensError(
            f"--model vllm: vLLM does not import ({type(error).__name__}: {reason}); "
            f"{INSTALL}, or use --model hf"
        ) from error
    if not device:
        raise DistillensError(
            "--model vllm: this vLLM finds no device to run on (its usual build needs a GPU); "
            f"{INSTALL} on a machine with one, or use --model hf"
        )


def checked_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The engine arguments among --model_args, passed on to vLLM unchanged.

    `batch_size` is the number of requests in flight (vLLM's max_num_seqs).

    Raises:
        DistillensError: an unknown key, one that another flag sets, a wrong number, or a layout
            that this machine cannot have.
    """
    from vllm.engine.arg_utils import EngineArgs

    for key, instead in _OURS.items():
        if key in given:
            raise DistillensError(f"--model_args {key}: give {instead} instead")
    known = [field.name for field in fields(EngineArgs) if field.name not in _OURS]
    check_arguments("vllm", given, [*known, "batch_size"])
    engine = {key: value for key, value in given.items() if key != "batch_size"}
    if "batch_size" in given:
        engine["max_num_seqs"] = given["batch_size"]
    value = engine.get("max_num_seqs", 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DistillensError(f"max_num_seqs = {value!r}, expected an integer of at least 1")
    check_layout(engine)
    _check_devices(engine)
    return engine


def _check_devices(engine: dict[str, Any]) -> None:
    from vllm.platforms import current_platform

    num_devices = None if current_platform.is_cpu() else current_platform.device_count()
    check_devices(engine, num_devices=num_devices, has_gpus=bool(current_platform.ray_device_key))


def engine_config(folder: Path, settings: Mapping[str, Any], *, max_length: int) -> Any:
    """vLLM's own configuration of an engine (VllmConfig); loads nothing.

    Args:
        folder: of the model.
        settings: engine arguments.
        max_length: prompt and answer together.
    Raises:
        ValueError and others of vLLM: the model and the settings do not go together.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs

    # Data-parallel engines are balanced by vLLM's async client only.
    kind = AsyncEngineArgs if settings.get("data_parallel_size", 1) > 1 else EngineArgs
    given: dict[str, Any] = {
        "disable_log_stats": True,
        # The protocol overrides generation_config.json, whose end tokens are in the facts.
        "generation_config": "vllm",
        **settings,
    }
    arguments = kind(model=str(folder), max_model_len=max_length, seed=0, **given)
    return arguments.create_engine_config()


def cpu_settings() -> dict[str, Any]:
    """What a CPU needs and a GPU does not; the user's own arguments override it."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {}
    # On a CPU vLLM 0.32 cannot rewind a seeded request's generator after part of a prompt ("CPU
    # Generator does not use offset"), so prompts must not be split.
    settings: dict[str, Any] = {"enable_chunked_prefill": False}
    if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        # Without a size for its KV cache the engine does not start on a CPU.
        settings["kv_cache_memory_bytes"] = 2**30
    return settings
