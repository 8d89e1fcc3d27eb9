"""Work on threads, whose results come as they finish."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def in_parallel(
    jobs: Sequence[int], work: Callable[[int, threading.Event], Result], *, num_threads: int
) -> Iterator[tuple[int, Result]]:
    """(job, result) in any order.

    After the first failure no job is begun, those that run are waited for and their results given,
    and then the failure is raised. A caller who stops reading waits for nothing.

    Args:
        work: (job, stop) -> its result. It should return soon after `stop` is set.
    Raises:
        Exception: the first that `work` raised.
    """
    stop, lock = threading.Event(), threading.Lock()
    waiting = iter(jobs)
    finished: queue.SimpleQueue[tuple[int, Result] | Exception | None] = queue.SimpleQueue()

    def run() -> None:
        while not stop.is_set():
            with lock:
                job = next(waiting, None)
            if job is None:
                break
            try:
                finished.put((job, work(job, stop)))
            except Exception as error:
                stop.set()
                finished.put(error)
                break
        finished.put(None)

    # Daemons: a process that is interrupted does not wait for a server.
    num_running = min(num_threads, len(jobs))
    for _ in range(num_running):
        threading.Thread(target=run, daemon=True).start()
    failure: Exception | None = None
    try:
        while num_running:
            item = finished.get()
            if item is None:
                num_running -= 1
            elif isinstance(item, Exception):
                failure = failure or item
            else:
                yield item
    finally:
        stop.set()
    if failure is not None:
        raise failure
