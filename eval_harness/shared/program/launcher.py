"""What torchrun and `accelerate launch` tell each process that they start."""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from eval_harness.errors import DistillensError
from eval_harness.shared.program.signals import Interrupted, Terminated

# A launcher ends all its processes as soon as one of them fails.
_TIME_TO_SPEAK_S = 3.0
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Launch:
    """This process's place among those of a run.

    Attributes:
        rank: from 0, over all machines.
        size: how many there are.
        local_rank: from 0, on this machine.
        local_size: how many are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def launch_of(environment: Mapping[str, str]) -> Launch:
    """The place that these variables give; without a launcher, a process alone.

    Raises:
        DistillensError: a number or an address is missing or wrong.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return Launch()
    rank, size, local_rank, local_size = (_number(environment, name) for name in _NAMES)
    if not (rank < size and local_rank < local_size):
        raise DistillensError(
            f"RANK = {rank} of WORLD_SIZE = {size}, LOCAL_RANK = {local_rank} of LOCAL_WORLD_SIZE "
            f"= {local_size}: expected ranks below the sizes; start with torchrun or accelerate "
            "launch"
        )
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environment.get(name):
            raise DistillensError(
                f"WORLD_SIZE = {size}, but {name} is not set; start with torchrun or accelerate "
                "launch, or unset WORLD_SIZE"
            )
    return Launch(rank, size, local_rank, local_size)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not (value.isascii() and value.isdecimal()):
        raise DistillensError(
            f"{name} = {value!r}, expected a whole number, since WORLD_SIZE is set; start with "
            "torchrun or accelerate launch, or unset WORLD_SIZE"
        )
    return int(value)


def is_main_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process speaks for all those of its launcher."""
    return environment.get("WORLD_SIZE", "1") == "1" or environment.get("RANK", "0") == "0"


def let_main_process_speak() -> None:
    """Waits, in a process that says nothing itself, before it fails as all the others do."""
    with contextlib.suppress(Interrupted, Terminated):  # the launcher ends it, as expected
        time.sleep(_TIME_TO_SPEAK_S)
