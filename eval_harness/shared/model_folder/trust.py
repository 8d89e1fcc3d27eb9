"""The one place that decides whether code that came with a file may run.

Recipes, studies and model folders are data: reading one must not run a stranger's code. Whatever
can run code is refused unless the user trusts it on the command line: `--trust-recipe` for recipes
and studies, `--trust_remote_code` for models. A file cannot grant trust. docs/security.md says what
is refused and what is harmless.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import read_json_object
from eval_harness.shared.shortened import shortened

RECIPE_FLAG = "--trust-recipe"
MODEL_FLAG = "--trust_remote_code"

# Our own arguments for vLLM, and those of its engine that hold a plain value. All others name
# classes, modules, files or addresses, or hold settings in which such names can hide.
_PLAIN_ENGINE_ARGUMENTS = """
    pretrained revision tokenizer peft max_length add_bos_token trust_remote_code batch_size
    async_scheduling attention_backend block_size cpu_offload_gb
    data_parallel_backend data_parallel_size data_parallel_size_local
    decode_context_parallel_size device disable_cascade_attn disable_custom_all_reduce
    disable_hybrid_kv_cache_manager disable_log_stats disable_sliding_window
    distributed_executor_backend dtype enable_chunked_prefill enable_expert_parallel
    enable_prefix_caching enforce_eager fully_sharded_loras gpu_memory_utilization kv_cache_dtype
    kv_cache_memory_bytes kv_offloading_size load_format long_prefill_token_threshold lora_dtype
    mamba_cache_dtype mamba_ssm_cache_dtype max_cudagraph_capture_size max_logprobs max_lora_rank
    max_loras max_cpu_loras max_num_batched_tokens max_num_seqs max_parallel_loading_workers
    model_impl moe_backend num_gpu_blocks_override optimization_level performance_mode
    pipeline_parallel_size prefill_context_parallel_size quantization safetensors_load_strategy
    scheduling_policy stream_interval tensor_parallel_size use_fp64_gumbel use_tqdm_on_load
"""
PLAIN_ENGINE_ARGUMENTS = frozenset(_PLAIN_ENGINE_ARGUMENTS.split())
# Arguments for which vLLM also accepts the name of a class, or of a plugin's format.
_WORDS = {
    "distributed_executor_backend": ("mp", "ray", "uni", "external_launcher"),
    "load_format": ("auto", "safetensors", "dummy"),
    "model_impl": ("auto", "vllm", "transformers"),
}
# Keys of a model's configuration under which transformers looks for attention or expert code.
_KERNEL_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)
# Adapters that consist of weights only; other types load models or tokenizers of their own.
_WEIGHTS_ALONE = """
    ADALORA BOFT C3A DELORA FOURIERFT HRA IA3 LN_TUNING LOHA LOKR LORA MISS OFT RANDLORA SHIRA VERA
"""
_MAX_CONFIG_BYTES = 10_000_000
_ADAPTER_TYPES = frozenset(_WEIGHTS_ALONE.split())


def refuse(where: str, found: str, effect: str, flag: str) -> NoReturn:
    """Refuses a value that can run code.

    Args:
        where: file and key, or the flag that was typed.
        found: the value.
        effect: what would run, as a clause after "which".
        flag: grants trust.
    Raises:
        DistillensError: always.
    """
    raise DistillensError(f"{where}: found {shortened(found, 80)}, which {effect}; {advice(flag)}")


def advice(flag: str) -> str:
    """What to do if the user does trust the file."""
    return f"pass {flag} on the command line if you trust it"


def given_remote_code(model_args: Mapping[str, Any], where: str) -> bool | None:
    """`trust_remote_code` among model arguments; None if it is not given.

    Raises:
        DistillensError: neither true nor false, such as a text that only looks like one.
    """
    value = model_args.get("trust_remote_code")
    if value is None or isinstance(value, bool):
        return value
    raise DistillensError(
        f"{where} trust_remote_code: found {shortened(repr(value), 80)}, expected true or false"
    )


def check_model_args(
    model: str, model_args: Mapping[str, Any], *, trusted: bool, where: str, flag: str
) -> None:
    """Refuses arguments of a backend that can run code.

    Args:
        model: vllm or hf.
        model_args: parsed.
        trusted: whether trust was granted; then nothing is refused.
        where: what errors begin with, such as `--model_args`.
        flag: grants trust.
    Raises:
        DistillensError: names the argument, what it would run, and the flag.
    """
    if given_remote_code(model_args, where) and not trusted:
        refuse(f"{where} trust_remote_code", "true", "runs code that comes with the model", flag)
    if trusted:
        return
    for key in ("attn_implementation", "experts_implementation"):
        if names_hub_code(model_args.get(key)):
            refuse(f"{where} {key}", repr(model_args[key]), "loads code from the Hub", flag)
    if model != "vllm":
        return
    for key, value in model_args.items():
        if key not in PLAIN_ENGINE_ARGUMENTS:
            effect = "is for an argument that can run code (or is not known to be safe)"
            refuse(f"{where} {key}", repr(value), effect, flag)
        words = _WORDS.get(key)
        plain = value is None or isinstance(value, bool | int | float | str)
        if not plain or (words is not None and str(value).lower() not in words):
            expected = f"is not one of {', '.join(words)}" if words else "is not a plain value"
            refuse(f"{where} {key}", repr(value), f"{expected} and may run code", flag)


def names_hub_code(value: object) -> bool:
    """Whether transformers would read this as a repository with attention or expert code.

    Its own implementations are single words such as sdpa; those on the Hub have a slash.
    """
    if isinstance(value, Mapping):
        return any(names_hub_code(part) for part in value.values())
    return isinstance(value, str) and "/" in value


def check_config(config: Any, where: str, *, trusted: bool, flag: str) -> None:
    """Refuses a model's configuration that makes transformers load code from the Hub.

    `auto_map` need not be refused: without trust_remote_code transformers does not follow it.

    Args:
        config: the content of a config.json, or of `init.config`.
    Raises:
        DistillensError: names the key.
    """
    if trusted or not isinstance(config, Mapping):
        return
    waiting: list[tuple[str, Mapping[Any, Any]]] = [("", config)]
    while waiting:
        path, node = waiting.pop()
        for key, value in node.items():
            if key in _KERNEL_KEYS and names_hub_code(value):
                refuse(f"{where}: {path}{key}", repr(value), "loads code from the Hub", flag)
            if isinstance(value, Mapping) and len(path) < 200:
                waiting.append((f"{path}{key}.", value))


def check_adapter(config: Any, where: str, *, trusted: bool, flag: str) -> None:
    """Refuses an adapter's configuration that makes peft import a module or load another model.

    Args:
        config: the content of an adapter_config.json.
    Raises:
        DistillensError: names the key.
    """
    if trusted or not isinstance(config, Mapping):
        return
    if config.get("megatron_config"):
        module = repr(config.get("megatron_core"))
        refuse(f"{where}: megatron_core", module, "is a module that peft would import", flag)
    kind = config.get("peft_type")
    if kind is not None and str(kind).upper() not in _ADAPTER_TYPES:
        effect = "may load more than weights, unlike LORA and similar types"
        refuse(f"{where}: peft_type", repr(kind), effect, flag)


def check_folder(folder: Path, *, trusted: bool, flag: str) -> None:
    """Refuses a local model or adapter folder whose configuration files ask for foreign code.

    transformers loads an adapter in a model's folder by itself, so both files are read wherever
    they are. Missing files are reported by whoever needs them.

    Raises:
        DistillensError: names the file and the key, or what is wrong with the file.
    """
    if trusted:
        return
    for name, check in (("config.json", check_config), ("adapter_config.json", check_adapter)):
        file = folder / name
        # Path.is_file raises on a name that no file can have.
        if os.path.isfile(file):
            content = read_json_object(file, max_bytes=_MAX_CONFIG_BYTES)
            check(content, str(file), trusted=False, flag=flag)
