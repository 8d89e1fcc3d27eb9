"""`--model_args` of `--model hf` for models that are larger than one GPU, in transformers' words.

accelerate spreads the layers over the GPUs of a machine, and what does not fit there over memory
and disk.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from eval_harness.errors import DistillensError

SPREADING = ("device_map", "max_memory", "offload_folder", "parallelize")
_WAYS = ("auto", "balanced", "balanced_low_0", "sequential")
_IN_MEMORY = ("cpu", "disk")


def spreading_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as transformers takes them: without `parallelize`, which is lm-eval's.

    Raises:
        DistillensError: a wrong value, one that needs another, or no accelerate to do it.
    """
    found = dict(given)
    parallelize = found.pop("parallelize", False)
    if not isinstance(parallelize, bool):
        raise DistillensError(f"parallelize = {parallelize!r}, expected true or false")
    if parallelize:
        if found.get("device_map", "auto") != "auto":
            raise DistillensError("parallelize means device_map=auto; give device_map alone")
        found["device_map"] = "auto"
    _check_device_map(found)
    for key in ("max_memory", "offload_folder"):
        if key in found and "device_map" not in found:
            raise DistillensError(f"{key} needs device_map; give device_map=auto as well")
    if "max_memory" in found:
        found["max_memory"] = _max_memory(found["max_memory"])
    if not isinstance(found.get("offload_folder", ""), str):
        raise DistillensError(f"offload_folder = {found['offload_folder']!r}, expected a folder")
    if "device_map" in found and importlib.util.find_spec("accelerate") is None:
        raise DistillensError("device_map needs the package accelerate; run pip install accelerate")
    return found


def device_kind(
    device_map: str | Mapping[str, int | str], max_memory: Mapping[int | str, Any] | None
) -> str:
    """The kind of the device that a spread model's logits come back to (see `input_device`).

    Args:
        device_map, max_memory: from `spreading_of`.
    Raises:
        DistillensError: a place is no device of torch.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    kind = "cpu" if accelerator is None else accelerator.type
    if isinstance(device_map, str):
        # accelerate uses no GPU that `max_memory` leaves out.
        has_gpus = max_memory is None or any(place not in _IN_MEMORY for place in max_memory)
        return kind if has_gpus else "cpu"
    computing = [str(place) for place in device_map.values() if str(place) not in _IN_MEMORY]
    if not computing or computing[0].isdecimal():
        return kind if computing else "cpu"
    try:
        return torch.device(computing[0]).type
    except RuntimeError:
        raise DistillensError(
            f"device_map = {device_map!r}: {computing[0]} is no device; expected a GPU's number, "
            "cpu, disk or a device of torch"
        ) from None


def _check_device_map(given: Mapping[str, Any]) -> None:
    if "device_map" not in given:
        return
    if "device" in given:
        raise DistillensError(
            f"device = {given['device']} and device_map = {given['device_map']}: give one of them"
        )
    value = given["device_map"]
    places = value.values() if isinstance(value, dict) else ()
    if value in _WAYS if isinstance(value, str) else value and all(map(_is_place, places)):
        return
    raise DistillensError(
        f"device_map = {value!r}, expected {', '.join(_WAYS)}, or a mapping of parts of the model "
        "to devices; for one device give device="
    )


def _is_place(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _max_memory(value: object) -> dict[int | str, int | str]:
    """JSON has texts as keys, and accelerate wants GPUs as numbers."""
    if not isinstance(value, dict) or not all(map(_is_place, value.values())) or not value:
        raise DistillensError(
            f'max_memory = {value!r}, expected a mapping such as {{"0": "20GiB", "cpu": "60GiB"}}'
        )
    return {
        int(key) if isinstance(key, str) and key.isdecimal() else key: size
        for key, size in value.items()
    }
