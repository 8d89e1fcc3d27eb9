"""The device that a command was told to use."""

import torch

from eval_harness.errors import DistillensError


def device_named(name: str | None, where: str) -> torch.device:
    """A device by its name; without one a GPU if there is one, else the CPU.

    Args:
        where: what errors begin with, such as `--device `.
    Raises:
        DistillensError: torch knows no such device, or cannot use it here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DistillensError(
            f"{where}{name}: cannot be used ({reason}); expected cpu, or a GPU that this machine "
            "has, such as cuda:1"
        ) from error
