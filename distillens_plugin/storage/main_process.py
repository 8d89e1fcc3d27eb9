"""What one process does for all of them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from eval_harness.errors import DistillensError, RunFailure


def say(accelerator: Accelerator, text: str) -> None:
    """Prints on the main process."""
    accelerator.print(text, flush=True)


def say_all(accelerator: Accelerator, lines: Sequence[str]) -> None:
    """Prints each of them on the main process."""
    for line in lines:
        say(accelerator, line)


Result = TypeVar("Result")


def on_main_process(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """Runs `action` on the main process; every process gets its result or its error.

    Raises:
        DistillensError: raised by the action. Any other exception is raised on the main process,
            and RunFailure on the others, so that none of them waits for one that has ended.
    """
    found: list[Any] = [None, None]
    raised: BaseException | None = None
    if accelerator.is_main_process:
        try:
            found[0] = action()
        except DistillensError as error:
            found[1] = raised = error
        except Exception as error:
            found[1] = RunFailure(f"the main process failed ({type(error).__name__}: {error})")
            raised = error
    broadcast_object_list(found)
    if raised is not None:
        raise raised
    if found[1] is not None:
        raise found[1]
    return found[0]
