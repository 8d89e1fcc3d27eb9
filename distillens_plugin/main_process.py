"""What one process does for all of them."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from eval_harness.errors import DistillensError


def say(accelerator: Accelerator, text: str) -> None:
    """Prints on the main process."""
    accelerator.print(text, flush=True)


def on_main_process(accelerator: Accelerator, action: Any) -> Any:
    """Runs `action` on the main process; every process gets what it returns or raises.

    Raises:
        DistillensError: of the action; another error ends the main process alone.
    """
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = action()
        except DistillensError as raised:
            found[1] = raised
    broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]
