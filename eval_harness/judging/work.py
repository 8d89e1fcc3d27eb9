"""The verdicts that a store lacks: asked concurrently, kept as they come."""

import sys
import threading
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

from eval_harness.errors import RunFailure
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
    from tqdm import tqdm

    waiting: SimpleQueue[tuple[Key, str]] = SimpleQueue()
    done: SimpleQueue[_Outcome] = SimpleQueue()
    for item in messages.items():
        waiting.put(item)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            try:
                key, message = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((key, judge.ask(message)))
            except BaseException as error:  # the main thread decides
                done.put((key, error))

    # Not a pool: at an interrupt, a pool would wait for the answers in flight.
    for _ in range(min(max_concurrent, len(messages))):
        threading.Thread(target=work, daemon=True).start()
    run = _Run(store)
    try:
        with tqdm(total=len(messages), unit="verdict", disable=not sys.stderr.isatty()) as bar:
            for _ in messages:
                run.take(*done.get())
                bar.update()
    finally:
        ended.set()
        run.keep_rest(done)
    return run.failures


class _Run:
    """What came of the requests so far, and when it is time to give up."""

    def __init__(self, store: AnswerStore) -> None:
        self.failures: dict[Key, EndpointFailure] = {}
        self._store = store
        self._any_came = False
        self._in_a_row = 0

    def take(self, key: Key, outcome: dict[str, Any] | BaseException) -> None:
        if isinstance(outcome, dict):
            self._store.add(key, outcome)
            self._any_came, self._in_a_row = True, 0
            return
        if not isinstance(outcome, EndpointFailure):
            raise outcome
        self.failures[key] = outcome
        # Some rows may be too long for the judge; if no row at all is accepted, it is not the rows.
        self._in_a_row += not (self._any_came and _is_final(outcome))
        gone = not outcome.connected or outcome.status in _FOR_ALL
        if gone or self._in_a_row >= _MOST_IN_A_ROW:
            raise RunFailure(
                f"{outcome}; {len(self._store.rows)} verdicts are kept in {self._store.path}, and "
                "the same command goes on from there"
            )

    def keep_rest(self, done: "SimpleQueue[_Outcome]") -> None:
        """Stores what has come meanwhile, after an interrupt too."""
        while True:
            try:
                key, outcome = done.get_nowait()
            except Empty:
                return
            if isinstance(outcome, dict):
                self._store.add(key, outcome)


def _is_final(failure: EndpointFailure) -> bool:
    """Whether the request itself is refused, and would be again."""
    status = failure.status
    return status is not None and 400 <= status < 500 and status not in _OF_THE_MOMENT
