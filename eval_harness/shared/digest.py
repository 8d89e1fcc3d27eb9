"""Sixteen digits that stand for a value: equal values have equal digits, on any machine."""

import hashlib
import json


def digest(value: object) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the canonical JSON of `value`.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON does not have.
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
