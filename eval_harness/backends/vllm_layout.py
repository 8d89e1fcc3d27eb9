"""How vLLM is laid out over GPUs and machines, checked before it loads anything.

One process starts and drives all engines. On one machine vLLM starts the others itself (`mp`); on
many they are Ray's, of a cluster that is running already.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.config_files import read_config
from eval_harness.shared.model_folder.identity import ModelFiles

# Each multiplies the number of GPUs.
_SIZES = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
    "data_parallel_size",
)
_BACKENDS = {
    "distributed_executor_backend": ("mp", "ray", "uni"),
    "data_parallel_backend": ("mp", "ray"),
}
# For engines that somebody else starts, on every machine.
_OTHER_STARTS = (
    "data_parallel_address",
    "data_parallel_external_lb",
    "data_parallel_hybrid_lb",
    "data_parallel_multi_port_external_lb",
    "data_parallel_rank",
    "data_parallel_rpc_port",
    "data_parallel_start_rank",
    "master_addr",
    "master_port",
    "nnodes",
    "node_rank",
)
LAYOUT_ARGUMENTS = frozenset({*_SIZES, *_BACKENDS, "data_parallel_size_local"})
_RAY = "distributed_executor_backend=ray"


def check_layout(engine: Mapping[str, Any]) -> None:
    """Whether sizes and backends are possible and go together, on any machine.

    Args:
        engine: vLLM's engine arguments.
    Raises:
        DistillensError: names the first that is wrong.
    """
    for key in _OTHER_STARTS:
        if key in engine:
            raise DistillensError(
                f"--model_args {key}: one process starts all engines, so there is no such number "
                f"to give; for many machines give {_RAY} (docs/scale.md)"
            )
    for key in (*_SIZES, "data_parallel_size_local"):
        value = engine.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DistillensError(f"{key} = {value!r}, expected an integer of at least 1")
    for key, known in _BACKENDS.items():
        value = engine.get(key)
        if value == "external_launcher":
            raise DistillensError(
                f"{key} = {value}: engines are started from here; give {' or '.join(known)}"
            )
        # Classes are for trusted command lines, see model_folder.trust.
        if key == "data_parallel_backend" and value not in (None, *known):
            raise DistillensError(f"{key} = {value!r}, expected {' or '.join(known)}")
    replicas, by_ray = engine.get("data_parallel_size", 1), _data_by_ray(engine)
    if engine.get("distributed_executor_backend") == "uni" and _num_gpus(engine) > replicas:
        raise DistillensError(
            f"distributed_executor_backend = uni is one process for each engine, but each needs "
            f"{_num_gpus(engine) // replicas}; drop it, or give mp"
        )
    if by_ray and replicas == 1:
        raise DistillensError(
            f"data_parallel_backend = ray places whole engines, but data_parallel_size is 1; give "
            f"data_parallel_size=N, or {_RAY} for one engine over many machines"
        )
    local = engine.get("data_parallel_size_local", replicas)
    if local > replicas or (local < replicas and not by_ray):
        raise DistillensError(
            f"data_parallel_size_local = {local} with data_parallel_size = {replicas}: the other "
            "engines are on other machines, so expected a smaller number, and "
            "data_parallel_backend=ray"
        )


def check_devices(engine: Mapping[str, Any], *, num_devices: int | None, has_gpus: bool) -> None:
    """Whether this machine, or its Ray, can hold the layout.

    Args:
        engine: passed `check_layout`.
        num_devices: GPUs of this machine; None: unknown, or no GPUs.
        has_gpus: whether vLLM runs on GPUs here.
    Raises:
        DistillensError: too few GPUs, no Ray, or what vLLM cannot do on a CPU.
    """
    if engine.get("distributed_executor_backend") == "ray" or _data_by_ray(engine):
        if importlib.util.find_spec("ray") is None:
            raise DistillensError(
                "--model_args: Ray is asked for, but not installed; pip install ray, on every "
                "machine"
            )
        if not has_gpus:
            raise DistillensError(
                "--model_args: vLLM's Ray executor needs GPUs, and this vLLM runs on the CPU; "
                "drop it"
            )
        return
    if not has_gpus and engine.get("pipeline_parallel_size", 1) > 1:
        # Its second stage never gets the first one's states (vLLM 0.32).
        raise DistillensError(
            "--model_args pipeline_parallel_size: vLLM fails with it on a CPU; give "
            "tensor_parallel_size instead"
        )
    needed = _num_gpus(engine)
    if num_devices is not None and needed > num_devices:
        sizes = [f"{key}={engine[key]}" for key in _SIZES if engine.get(key, 1) > 1]
        raise DistillensError(
            f"--model_args {','.join(sizes)} needs {needed} GPUs, but there are {num_devices}; "
            f"give smaller sizes, or {_RAY} on a cluster"
        )


def check_heads(engine: Mapping[str, Any], facts: ModelFiles) -> None:
    """Whether the model's attention can be cut into as many pieces.

    Args:
        engine: passed `check_layout`.
    Raises:
        DistillensError: tensor_parallel_size does not divide the number of heads.
    """
    size = engine.get("tensor_parallel_size", 1)
    heads = _num_heads(facts)
    if heads is not None and heads % size:
        fitting = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        raise DistillensError(
            f"tensor_parallel_size = {size}, but {facts.name} has {heads} attention heads; "
            f"expected one of {fitting}"
        )


def _data_by_ray(engine: Mapping[str, Any]) -> bool:
    return engine.get("data_parallel_backend") == "ray"


def _num_gpus(engine: Mapping[str, Any]) -> int:
    num = 1
    for key in _SIZES:
        num *= engine.get(key, 1)
    return num


def _num_heads(facts: ModelFiles) -> int | None:
    """As the config says it; None where it has no such key, and vLLM's own check comes later."""
    fields = read_config(facts.folder)
    text = fields.get("text_config")
    found = [
        table[key]
        for table in (fields, text if isinstance(text, dict) else {})
        for key in ("num_attention_heads", "n_head", "num_heads")
        if isinstance(table.get(key), int)
    ]
    return found[0] if found and found[0] > 0 else None
