"""What `--model hf` takes among --model_args, checked before any weights are read."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from eval_harness.backends.base import check_arguments
from eval_harness.backends.transformers_spreading import SPREADING, device_kind, spreading_of
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import names_hub_code

ARGUMENTS = ("dtype", "device", "attn_implementation", "batch_size", *SPREADING)
DEFAULT_BATCH_SIZE = 16
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def checked_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `TransformersBackend` among --model_args.

    Raises:
        DistillensError: an unknown key, a wrong dtype, device, attention or batch size.
    """
    check_arguments("hf", given, ARGUMENTS)
    _check_attention(given.get("attn_implementation"))
    batch_size = given.get("batch_size", DEFAULT_BATCH_SIZE)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DistillensError(f"batch_size = {batch_size!r}, expected an integer of at least 1")
    dtype_of(str(given.get("dtype", "auto")))
    given = spreading_of(given)
    if "device_map" not in given:
        device_of(given.get("device"))
    return {**given, "batch_size": batch_size}


def device_of(name: str | None) -> torch.device:
    """A device that torch can use; None: a GPU if there is one.

    Raises:
        DistillensError: torch cannot use it.
    """
    if name is None:
        # What `accelerate launch --cpu` sets.
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
        return torch.device("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise DistillensError(f"device = {name}: torch cannot use it ({reason})") from error
    return device


def sampled_on(arguments: Mapping[str, Any]) -> str:
    """The kind of device that draws the tokens: "cuda" and so on; "" for a CPU.

    A seed gives other random numbers on another kind. A CPU has no name here, so that answers
    sampled on one keep the fingerprints of earlier versions.

    Args:
        arguments: from `checked_arguments`.
    """
    device_map = arguments.get("device_map")
    if device_map:
        kind = device_kind(device_map, arguments.get("max_memory"))
    else:
        kind = device_of(arguments.get("device")).type
    return "" if kind == "cpu" else kind


def take_device(model_args: Mapping[str, Any], *, local_rank: int, local_size: int) -> None:
    """Makes one of this machine's GPUs the process's own, if the model is to run on GPUs.

    Raises:
        DistillensError: there are fewer GPUs than processes, or all are told to take the same one.
    """
    if any(model_args.get(key) for key in SPREADING):
        raise DistillensError(
            f"device_map spreads one model over all GPUs, but there are {local_size} processes on "
            "this machine; start it without a launcher, or drop device_map"
        )
    name = model_args.get("device")
    device = device_of(None if name is None else str(name))
    if device.type == "cpu":
        return
    if device.index is not None and local_size > 1:
        raise DistillensError(
            f"device = {name}: {local_size} processes on this machine would share it; give "
            f"{device.type}, and each takes one of its own"
        )
    num_devices = torch.accelerator.device_count()
    if local_rank >= num_devices:
        raise DistillensError(
            f"{local_size} processes on this machine, but {num_devices} {device.type} devices; "
            f"start {num_devices}, or give --device cpu"
        )
    torch.accelerator.set_device_index(local_rank)


def dtype_of(name: str) -> torch.dtype | str:
    """A type of weights; "auto" stays as it is.

    Raises:
        DistillensError: not float32, bfloat16, float16 or auto.
    """
    if name == "auto":
        return name
    if name not in _DTYPES:
        raise DistillensError(f"dtype = {name!r}, expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _check_attention(name: object) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    # One with a slash is from the Hub, and was refused earlier without trust.
    known = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    if name is not None and name not in known and not names_hub_code(name):
        raise DistillensError(
            f"attn_implementation = {name!r}, expected one of {', '.join(sorted(known))}"
        )
