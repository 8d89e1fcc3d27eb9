"""The random number generators of a process, as plain values and tensors, and back again."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed


def random_states() -> dict[str, Any]:
    """Of Python, NumPy and torch, and of this process's devices."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (what libraries use)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(name), [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        states["xpu"] = torch.xpu.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Puts back what `random_states` gave.

    Devices that are not there any more are left out, and those that are new keep their numbers.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: these are no such states.
    """
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
    if "xpu" in states and hasattr(torch, "xpu") and torch.xpu.is_available():
        for device, state in enumerate(states["xpu"][: torch.xpu.device_count()]):
            torch.xpu.set_rng_state(state, device)


@contextmanager
def undisturbed_random_states() -> Iterator[None]:
    """Whatever the block draws, what comes after it draws the numbers that it would have drawn."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)


def restore_or_seed(states: Sequence[dict[str, Any]], *, process: int, seed: int) -> None:
    """Puts back those of this process; one that was not there gets new numbers, and not another's.

    Args:
        states: `random_states` of each process of the run that kept them.
        process: index of this one.
        seed: of the recipe.
    """
    if process < len(states):
        restore_random_states(states[process])
        return
    # What the first process had drawn so far tells one resumption from another.
    drawn = states[0]["torch"].numpy().tobytes()
    digest = hashlib.sha256(drawn + f" {seed} {process}".encode()).digest()
    set_seed(int.from_bytes(digest[:4], "big"))
