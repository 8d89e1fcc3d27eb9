"""An adapter's regular expressions, timed on the model's module names before peft uses them.

Some expressions, such as (a+)+$, would run for years on names of a few dozen letters.
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
# Settings that peft reads as an expression if they are a text.
_TEXTS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern")
# Settings whose keys are expressions.
_KEYS = ("rank_pattern", "alpha_pattern")


def check_patterns(settings: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Refuses expressions that take too long; invalid ones are left for peft to report.

    Time is measured in the main thread only, where Python handles signals.

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
            # The two ways in which peft matches these settings.
            whole, part = re.compile(pattern), re.compile(rf"(.*\.)?({pattern})$")
            for name in names:
                whole.fullmatch(name)
                part.match(name)
    except TimeoutError as error:
        raise DistillensError(
            f"{found}, a regular expression that takes more than {_LONGEST_S:g} s on this model's "
            "module names; expected a simpler one, or a list of names such as q_proj"
        ) from error
    except (re.error, OverflowError, RecursionError):
        return


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raises TimeoutError within the block; Python's matcher checks for signals while it runs."""
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
