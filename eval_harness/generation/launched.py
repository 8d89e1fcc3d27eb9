"""A run on the processes of torchrun or `accelerate launch`, which meet through a small store.

They exchange a few words and counts: who has finished a step, what went wrong, how many answers are
there. That goes through the key-value store (torch's TCPStore) at which launchers let processes
meet, so that nothing depends on NCCL, on a GPU, or on what accelerate is set up for.
"""

import atexit
import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.generation.processes import ALONE, Counter, Processes, Value
from eval_harness.shared.program.launcher import Launch, launch_of

if TYPE_CHECKING:
    from torch.distributed import Store

_MEETING_S = 600.0
# Without a single answer of anybody for so long, the processes that wait give up.
_PATIENCE_S = 1800.0
_FAREWELL_S = 10.0
_POLL_S = 0.05
_SYNC_EVERY_S = 1.0


def join_launched() -> Processes:
    """The processes that a launcher has started with this one; else this one alone.

    Raises:
        DistillensError: a launcher's variables are incomplete.
        RunFailure: the processes do not find each other.
    """
    launch = launch_of(os.environ)
    if launch.size == 1:
        return ALONE
    from torch.distributed import PrefixStore, rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=_MEETING_S)))
    except (RuntimeError, ValueError) as error:
        raise RunFailure(
            f"process {launch.rank} of {launch.size} does not find the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({error}); is every process "
            "running, and can the machines reach each other?"
        ) from error
    return LaunchedProcesses(PrefixStore("eval_harness", store), launch)


class _Stopped(Exception):  # noqa: N818 (nothing went wrong in this process)
    """Another process has failed, so that this one's work is in vain."""


class LaunchedProcesses(Processes):
    """All take the same steps in the same order; see `Processes`.

    Args:
        store: shared by all of them.
        launch: this process's place.
    """

    def __init__(self, store: "Store", launch: Launch) -> None:
        self.rank, self.size = launch.rank, launch.size
        self.local_rank, self.local_size = launch.local_rank, launch.local_size
        self._store = store
        self._step = 0
        self._num_counters = 0
        if self.is_main:
            atexit.register(self._say_farewell)

    def together(
        self, step: Callable[[], Value], *, while_waiting: Callable[[], None] | None = None
    ) -> Value:
        self._step += 1
        value: Value | None = None
        failure: Exception | None = None
        try:
            value = step()
        except Exception as error:
            failure = error
        with self._speaking():
            if failure is not None:
                self._store.add(self._key("failed"), 1)
            self._store.set(self._key(self.rank), json.dumps(_told(failure)))
            told = self._wait_for_all(while_waiting)
        first = next((rank for rank, found in enumerate(told) if found is not None), None)
        if first is None:
            return value  # type: ignore[return-value]  # the step did return
        self._part()
        raise self._error_of(first, told[first] or {}, failure)

    def counter(self) -> Counter:
        self._num_counters += 1
        return _SharedCounter(self, self._store, f"counter {self._num_counters}")

    def path_of_main(self, path: Path | None) -> Path:
        key = self._key("path")
        if path is None:
            with self._speaking():
                # However long it scores; the launcher notices if it ends.
                while not (self._has_failed() or self._store.check([key])):
                    time.sleep(_POLL_S)
                self.check()
                return Path(self._store.get(key).decode())
        self._store.set(key, str(path))
        return path

    def check(self) -> None:
        """Ends this process's step if another process has failed in it."""
        if self._has_failed():
            raise _Stopped

    def _has_failed(self) -> bool:
        return bool(self._store.check([self._key("failed")]))

    def beat(self) -> None:
        """Shows those who wait that this process is at work."""
        self._store.add("beats", 1)

    def _key(self, name: object) -> str:
        return f"step {self._step} {name}"

    def _wait_for_all(
        self, while_waiting: Callable[[], None] | None
    ) -> list[dict[str, Any] | None]:
        keys = [self._key(rank) for rank in range(self.size)]
        for rank, key in enumerate(keys):
            is_there = functools.partial(self._store.check, [key])
            self._wait(is_there, f"process {rank} of {self.size}", while_waiting)
        told = [json.loads(self._store.get(key)) for key in keys]
        self._store.add(self._key("read"), 1)
        return told

    def _wait(
        self,
        is_there: Callable[[], bool],
        name: str,
        while_waiting: Callable[[], None] | None = None,
    ) -> None:
        """Polls, so that signals end it at once.

        Raises:
            RunFailure: nothing has happened anywhere for a long time.
        """
        beats, deadline, asked = -1, time.monotonic() + _PATIENCE_S, 0.0
        while not is_there():
            time.sleep(_POLL_S)
            now = time.monotonic()
            if now - asked < _SYNC_EVERY_S:
                continue
            asked = now
            if while_waiting is not None:
                while_waiting()
            found = self._store.add("beats", 0)
            if found != beats:
                beats, deadline = found, now + _PATIENCE_S
            elif now > deadline:
                raise RunFailure(
                    f"{name} has done nothing for {_PATIENCE_S / 60:.0f} minutes; what was "
                    "finished is kept: run the command again"
                )

    def _part(self) -> None:
        """After an error: the main process speaks, and then all end; a launcher would kill it."""
        with contextlib.suppress(RuntimeError):
            deadline = time.monotonic() + _FAREWELL_S
            while time.monotonic() < deadline and not self._may_go():
                time.sleep(_POLL_S)

    def _may_go(self) -> bool:
        if self.is_main:  # it may be the one that holds the store
            return self._store.add(self._key("read"), 0) == self.size
        return self._store.check(["farewell"])

    def _say_farewell(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.set("farewell", "")

    def _error_of(self, rank: int, told: dict[str, Any], failure: Exception | None) -> Exception:
        if rank == self.rank and self.is_main and failure is not None:
            return failure
        kind = DistillensError if told["exit_code"] == 2 else RunFailure
        where = "" if rank == 0 else f"process {rank} of {self.size}: "
        error = kind(where + told["text"])
        error.__cause__ = failure
        error.said_elsewhere = not self.is_main
        return error

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's DistError and its kinds
            raise RunFailure(
                f"process {self.rank} of {self.size} has lost the others ({error}); what was "
                "finished is kept: run the command again"
            ) from error


class _SharedCounter(Counter):
    """Adds up in the store, about once a second."""

    def __init__(self, processes: LaunchedProcesses, store: "Store", name: str) -> None:
        super().__init__()
        self._processes, self._store, self._name = processes, store, name
        self._synced_at = time.monotonic()

    def add(self, num: int, num_tokens: int) -> None:
        super().add(num, num_tokens)
        if time.monotonic() - self._synced_at >= _SYNC_EVERY_S:
            self.flush()
            self._processes.check()

    def totals(self) -> tuple[int, int]:
        self.flush()
        num = self._store.add(f"{self._name} num", 0)
        return num, self._store.add(f"{self._name} tokens", 0)

    def flush(self) -> None:
        self._synced_at = time.monotonic()
        if self._num or self._num_tokens:
            self._store.add(f"{self._name} num", self._num)
            self._store.add(f"{self._name} tokens", self._num_tokens)
            self._num, self._num_tokens = 0, 0
            self._processes.beat()


def _told(failure: Exception | None) -> dict[str, Any] | None:
    """What the others are told; None: nothing went wrong here."""
    if failure is None or isinstance(failure, _Stopped):
        return None
    if isinstance(failure, DistillensError):
        return {"text": str(failure), "exit_code": failure.exit_code}
    return {"text": f"{type(failure).__name__}: {failure}", "exit_code": 1}
