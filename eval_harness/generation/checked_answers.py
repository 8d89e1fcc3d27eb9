"""A backend's answers as they come, refused where they do not fit what was asked."""

import operator
from collections.abc import Iterable, Iterator

from eval_harness.backends.base import Answer
from eval_harness.errors import RunFailure

_REASONS = ("stop", "length")


def checked_answers(
    answers: Iterable[Answer], *, backend: str, num_requests: int, done: frozenset[int]
) -> Iterator[Answer]:
    """The same answers; a wrong one is refused before it is stored.

    A negative index would otherwise be taken for one from the end, and pair an answer with another
    row.

    Args:
        backend: its name, for errors.
        num_requests: how many requests it was given.
        done: the indices among them that were not asked for.
    Raises:
        RunFailure: something that is no answer, to a request that was not asked for or was answered
            before; or, at the end, a request without an answer.
    """
    missing = set(range(num_requests)) - done
    for answer in answers:
        if not isinstance(answer, Answer) or answer.finish_reason not in _REASONS:
            raise RunFailure(
                f"backend {backend}: found {str(answer)[:80]!r}, expected an Answer with an index, "
                'token ids and a finish reason, "stop" or "length"'
            )
        index = _index(answer.index)
        if index is None or index not in missing:
            raise RunFailure(
                f"backend {backend}: found an answer to request {answer.index!r}, expected one "
                f"answer to each of the {num_requests - len(done)} requests that were asked for"
            )
        if not _are_tokens(answer.token_ids):
            raise RunFailure(
                f"backend {backend}: found {str(answer.token_ids)[:80]!r} as the answer to request "
                f"{index}, expected token ids: integers of at least 0"
            )
        if answer.text is not None and not isinstance(answer.text, str):
            raise RunFailure(
                f"backend {backend}: found {str(answer.text)[:80]!r} as the text of request "
                f"{index}, expected a text or None"
            )
        missing.remove(index)
        yield answer
    if missing:
        raise RunFailure(
            f"backend {backend}: {len(missing)} of {num_requests - len(done)} requests have no "
            f"answer, request {min(missing)} first; the answers that came are kept"
        )


def _index(value: object) -> int | None:
    """An integer of any library (numpy's too), or None."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _are_tokens(token_ids: Iterable[object]) -> bool:
    try:
        found = [_index(token) for token in token_ids]
    except TypeError:
        return False
    return all(token is not None and token >= 0 for token in found)
