"""Numbers on the command line, refused in one short line if they make no sense."""

import argparse
import math
import re

from eval_harness.errors import DistillensError
from eval_harness.shared.shortened import shortened

_INTEGER = re.compile(r"[+-]?[0-9]+")
# Larger seeds and counts overflow somewhere in a backend.
_MOST = 2**63 - 1


def count(text: str) -> int:
    """An integer of at least 1, for argparse's `type`.

    Raises:
        argparse.ArgumentTypeError: it is anything else.
    """
    return _at_least(text, 1)


def whole(text: str) -> int:
    """An integer of at least 0, for argparse's `type`.

    Raises:
        argparse.ArgumentTypeError: it is anything else.
    """
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    if not _INTEGER.fullmatch(text.strip()):
        raise argparse.ArgumentTypeError(f"invalid int value: {shortened(text)!r}")
    value = _integer(text)
    if value is None or not least <= value < 2**31:
        raise argparse.ArgumentTypeError(
            f"found {shortened(text)}, expected an integer from {least} to {2**31 - 1}"
        )
    return value


def batch_size(text: str) -> int | None:
    """The value of --batch_size; None for auto.

    Raises:
        DistillensError: neither auto nor an integer of at least 1.
    """
    if text == "auto":
        return None
    value = _integer(text)
    if value is None or not 1 <= value < 2**31:
        raise DistillensError(
            f"--batch_size {shortened(text)}: expected an integer or auto, at least 1 and below "
            "2**31"
        )
    return value


def seeds(text: str | None) -> list[int] | None:
    """The values of --seed: integers separated by commas; None without the flag.

    Raises:
        DistillensError: one of them is not an integer below 2**63.
    """
    if text is None:
        return None
    values = [_integer(part) for part in text.split(",")]
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        raise DistillensError(
            f"--seed {shortened(text)}: expected integers separated by commas, each below 2**63"
        )
    return found


def limit(text: str | None) -> float | None:
    """The value of --limit: a number of rows, or a share below 1; None: all rows.

    Raises:
        DistillensError: it is neither.
    """
    if text is None:
        return None
    try:
        value = float(text) if len(text) <= 40 and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not (0 < value < 1 or (1 <= value <= _MOST and value == int(value))):
        raise DistillensError(
            f"--limit {shortened(text)}: expected a number of rows of at least 1, or a share "
            "between 0 and 1"
        )
    return value


def _integer(text: str) -> int | None:
    text = text.strip()
    if not _INTEGER.fullmatch(text) or len(text) > 20:
        return None
    value = int(text)
    return value if -_MOST <= value <= _MOST else None
