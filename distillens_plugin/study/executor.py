"""What runs a study's commands: child processes here (`local`), or a cluster (`cluster`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol


@dataclass
class Command:
    """One command line of a study.

    Attributes:
        before: called right before it starts;  after: with its seconds, once it has succeeded.
            Both run in the study's own process.
        writes: files and folders, all within the study's folder. Two commands that write the same
            exclude each other by a lock in the first.
        reads: files and folders within the study's folder that it needs besides.
    """

    arguments: list[str]
    log: Path
    working_folder: Path | None = None
    before: Callable[[], None] | None = None
    after: Callable[[float], None] | None = None
    writes: tuple[Path, ...] = ()
    reads: tuple[Path, ...] = ()


class Ended(NamedTuple):
    """How a command ended: after how long, and one line that says why it failed, if it did."""

    seconds: float
    failure: str = ""


class Started(Protocol):
    """A command that has been started."""

    def poll(self) -> Ended | None:
        """How it ended; None while it goes on."""


class Executor(Protocol):
    """Where commands run.

    Attributes:
        limit: jobs to start at a time; None: all of them, since a cluster has a queue of its own.
        poll_s: seconds between two looks at what runs.
        takes_groups: whether one command may do the work of several runs, for one of its slots.
    """

    limit: int | None
    poll_s: float
    takes_groups: bool

    def at_once(self) -> int:
        """How many commands can run at the same moment, for estimates; at least 1."""

    def start(self, command: Command, lock: int | None) -> Started:
        """Starts it.

        Args:
            lock: descriptor of the study's lock, which children on this machine hold too.
        Raises:
            DistillensError, OSError: it cannot be started.
        """

    def end(self, started: Sequence[Started]) -> None:
        """Ends commands that are still running, and waits until they have ended."""
