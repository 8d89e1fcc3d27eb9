"""Where an answer's tokens end."""

from collections.abc import Sequence


def strip_stop(token_ids: Sequence[int], stop_token_ids: Sequence[int]) -> tuple[list[int], str]:
    """Tokens before the first end token, and the finish reason."""
    stops = set(stop_token_ids)
    for position, token in enumerate(token_ids):
        if token in stops:
            return list(token_ids[:position]), "stop"
    return list(token_ids), "length"
