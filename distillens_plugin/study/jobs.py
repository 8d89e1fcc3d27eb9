"""Goes through jobs on an executor, several at a time, and says how far it is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distillens_plugin.study.executor import Command, Executor, Started
from eval_harness.errors import DistillensError


@dataclass
class Job:
    """Commands that follow each other; the first failure ends the job."""

    name: str
    commands: list[Command]


@dataclass
class _Running:
    job: Job
    started: Started | None = None
    index: int = 0
    # Of its commands alone: waiting in a cluster's queue does not count.
    seconds: float = 0.0


def run_jobs(
    jobs: Sequence[Job],
    executor: Executor,
    *,
    say: Callable[[str], None],
    lock: int | None = None,
) -> dict[str, str]:
    """Runs all jobs, as many at a time as the executor takes.

    Args:
        say: prints a line.
        lock: file descriptor of the folder's lock, which children on this machine hold too.
    Returns:
        What failed: the job's name and one line that says why.
    """
    waiting, failed = list(jobs), dict[str, str]()
    running: list[_Running] = []
    finished: list[float] = []
    try:
        while waiting or running:
            while waiting and (executor.limit is None or len(running) < executor.limit):
                running.append(_Running(waiting.pop(0)))
            for item in list(running):
                failure = _advance(item, executor, lock)
                if failure is None:
                    continue
                running.remove(item)
                finished.append(item.seconds)
                left = len(waiting) + len(running)
                count = f"[{len(jobs) - left}/{len(jobs)}] {item.job.name}"
                if failure:
                    failed[item.job.name] = failure
                    say(f"{count} failed: {failure}")
                else:
                    rest = sum(finished) / len(finished) * left / executor.at_once()
                    about = f"; about {duration(rest)} left in this phase" if left else ""
                    say(f"{count} done in {duration(item.seconds)}{about}")
            if running:
                time.sleep(executor.poll_s)
    finally:
        executor.end([item.started for item in running if item.started is not None])
    return failed


def _advance(item: _Running, executor: Executor, lock: int | None) -> str | None:
    """Starts the job's next command when the last has ended.

    Returns:
        None while it runs, "" when all is done, else what failed.
    """
    if item.started is not None:
        ended = item.started.poll()
        if ended is None:
            return None
        item.started = None
        item.seconds += ended.seconds
        if ended.failure:
            return ended.failure
        after = item.job.commands[item.index].after
        if after is not None:
            try:
                after(ended.seconds)
            except (DistillensError, OSError) as error:
                return str(error)
        item.index += 1
    if item.index == len(item.job.commands):
        return ""
    command = item.job.commands[item.index]
    try:
        if command.before is not None:
            command.before()
        item.started = executor.start(command, lock)
    except (DistillensError, OSError) as error:
        return str(error)
    return None


def duration(seconds: float) -> str:
    """In words, coarse."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
