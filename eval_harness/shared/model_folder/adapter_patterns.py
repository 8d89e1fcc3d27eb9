"""Regular expressions of an adapter's settings, tried on a model's module names before peft does.

Some expressions, such as (a+)+$, take longer than anybody waits, on names of a few dozen letters.
"""

import contextlib
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import shown

# Of processor time, for all names: real expressions take milliseconds.
_LONGEST_S = 1.0
# Settings that peft takes for an expression where they are a text.
_TEXTS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern")
# Settings whose keys are expressions.
_KEYS = ("rank_pattern", "alpha_pattern")


def check_patterns(settings: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Refuses expressions that take too long; those that are none are left to peft's own words.

    Time is only measured in the main thread, where Python handles signals.

    Args:
        settings: of an adapter_config.json, or the same keys from elsewhere.
        names: of the model's modules.
        where: what errors begin with; a dot and the key follow.
    Raises:
        DistillensError: names the key and the expression.
    """
    patterns = [(key, settings.get(key)) for key in _TEXTS]
    for key in _KEYS:
        named = settings.get(key)
        patterns += [(key, pattern) for pattern in named] if isinstance(named, Mapping) else []
    names = list(names)
    for key, pattern in patterns:
        for text in pattern if isinstance(pattern, list) and key == "layers_pattern" else [pattern]:
            if isinstance(text, str):
                _try(text, names, f"{where}.{key}: found {shown(text)}")


def _try(pattern: str, names: list[str], found: str) -> None:
    try:
        with _time_limit():
            # As peft uses the several settings.
            whole, part = re.compile(pattern), re.compile(rf"(.*\.)?({pattern})$")
            for name in names:
                whole.fullmatch(name)
                part.match(name)
    except TimeoutError as error:
        raise DistillensError(
            f"{found}, a regular expression that takes more than {_LONGEST_S:g} s on the names of "
            "this model's modules; expected a simpler one, or a list of names such as q_proj"
        ) from error
    except (re.error, OverflowError, RecursionError):
        return


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raises TimeoutError within the block; Python's matcher looks for signals as it goes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, _LONGEST_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
