"""`sharding`: what accelerate's configuration file cannot say about a run on several devices."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from distillens_plugin.recipe.schema.base import Positive, Strict, complain, problem


def _place(value: str) -> str:
    if value not in ("sharded", "replicated", "cpu") and not re.fullmatch(r"cuda:\d+", value):
        problem(value, "sharded, replicated, or a device such as cpu or cuda:1")
    return value


class Sharding(Strict):
    """Where the teacher is, and how long processes wait for each other."""

    teacher: Annotated[str, AfterValidator(_place)] | None = Field(
        default=None,
        description="sharded: in pieces like the student (FSDP2); replicated: whole on every "
        "device; or a device, cpu or cuda:1, that holds it for the process (or processes) here; "
        "null: sharded with FSDP2, else replicated",
    )
    reshard_teacher: bool = Field(
        default=False,
        description="put a sharded teacher's head away after each batch, which is gathered again "
        "for the next: less memory, more traffic",
    )
    timeout_minutes: Positive | None = Field(
        default=None,
        description="how long a process waits for the others before it gives up, such as while "
        "the first one writes a large model; null: torch's own, 10 minutes on GPUs",
    )


def check_sharding(sharding: Sharding, *, has_teacher: bool) -> None:
    """Refuses, inside a validator, keys that would have no effect."""
    if sharding.teacher is not None and not has_teacher:
        complain("the recipe has no teacher; delete the key", at=("sharding", "teacher"))
    if sharding.reshard_teacher and (not has_teacher or sharding.teacher not in (None, "sharded")):
        complain("there is no sharded teacher; delete the key", at=("sharding", "reshard_teacher"))
