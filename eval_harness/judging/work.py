"""The verdicts that a store lacks: asked concurrently, kept as they come."""

import threading
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

from eval_harness.errors import RunFailure
from eval_harness.generation.progress import Progress
from eval_harness.generation.store import AnswerStore
from eval_harness.generation.task import say
from eval_harness.judging.judge import Judge
from eval_harness.judging.pairs import Key
from eval_harness.shared.endpoint.http_json import EndpointFailure

# Statuses that every request would get: no such call, or a key that is not accepted.
_FOR_ALL = (401, 403, 404, 405)
# Statuses below 500 that say nothing about the request itself.
_OF_THE_MOMENT = (408, 409, 425, 429)
# An endpoint that gives nothing usable so many times in a row is taken for broken.
_MOST_IN_A_ROW = 8

_Outcome = tuple[Key, dict[str, Any] | BaseException]


def ask_missing(
    messages: Mapping[Key, str], store: AnswerStore, judge: Judge, *, max_concurrent: int
) -> dict[Key, EndpointFailure]:
    """Asks for the verdicts that are not stored yet, those that failed a second time at the end.

    Args:
        messages: by the key of their verdict.
        max_concurrent: requests in flight at once.
    Returns:
        The failures that remain, by key.
    Raises:
        RunFailure: the endpoint is gone, or gives nothing usable; what came before is stored.
    """
    missing = {key: message for key, message in messages.items() if key not in store.rows}
    failures = _ask_all(missing, store, judge, max_concurrent)
    again = {key: missing[key] for key, failure in failures.items() if not _is_final(failure)}
    if again:
        say(f"{len(again)} requests failed and are tried once more")
        failures = {key: fault for key, fault in failures.items() if key not in again}
        failures |= _ask_all(again, store, judge, max_concurrent)
    return failures


def _ask_all(
    messages: Mapping[Key, str], store: AnswerStore, judge: Judge, max_concurrent: int
) -> dict[Key, EndpointFailure]:
    waiting: SimpleQueue[tuple[Key, str]] = SimpleQueue()
    done: SimpleQueue[_Outcome] = SimpleQueue()
    for item in messages.items():
        waiting.put(item)
    patience = _Patience()

    def work() -> None:
        while not patience.ended.is_set():
            try:
                key, message = waiting.get_nowait()
            except Empty:
                return
            outcome: dict[str, Any] | BaseException
            try:
                outcome = judge.ask(message)
            except BaseException as error:  # the main thread raises it
                outcome = error
            patience.note(outcome)
            done.put((key, outcome))

    # Not a pool: at an interrupt, a pool would wait for the answers in flight.
    for _ in range(min(max_concurrent, len(messages))):
        threading.Thread(target=work, daemon=True).start()
    failures: dict[Key, EndpointFailure] = {}

    def take(key: Key, outcome: dict[str, Any] | BaseException) -> None:
        if isinstance(outcome, dict):
            store.add(key, outcome)
        elif isinstance(outcome, EndpointFailure):
            failures[key] = outcome
        else:
            raise outcome

    try:
        with Progress(len(messages), 0, unit="verdict") as progress:
            for _ in messages:
                key, outcome = done.get()
                take(key, outcome)
                progress.add(outcome["num_tokens"] or 0 if isinstance(outcome, dict) else 0)
                if patience.fault is not None:
                    break
    finally:
        # Also after an interrupt: what has come meanwhile is kept.
        patience.ended.set()
        while not done.empty():
            take(*done.get())
    if patience.fault is not None:
        raise RunFailure(
            f"{patience.fault}; {len(store.rows)} verdicts are kept in {store.path}, and the same "
            "command goes on from there"
        )
    return failures


class _Patience:
    """When to give up, decided where answers come in: no thread asks a broken endpoint further.

    Attributes:
        ended: nothing more is to be asked.
        fault: the reason to give up; None until then.
    """

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.fault: EndpointFailure | None = None
        self._lock = threading.Lock()
        self._any_came = False
        self._in_a_row = 0

    def note(self, outcome: object) -> None:
        """Takes notice of one request's outcome."""
        with self._lock:
            if not isinstance(outcome, EndpointFailure):
                self._any_came, self._in_a_row = True, 0
                return
            # Some rows may be too long for the judge. If none is accepted, it is not the rows.
            self._in_a_row += not (self._any_came and _is_final(outcome))
            gone = not outcome.connected or outcome.status in _FOR_ALL
            if self.fault is None and (gone or self._in_a_row >= _MOST_IN_A_ROW):
                self.fault = outcome
                self.ended.set()


def _is_final(failure: EndpointFailure) -> bool:
    """Whether the request itself is refused, and would be again."""
    status = failure.status
    return status is not None and 400 <= status < 500 and status not in _OF_THE_MOMENT
