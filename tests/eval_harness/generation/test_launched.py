"""Processes that meet through a store; here they are threads with a store of torch in memory."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed import HashStore

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.generation import launched
from eval_harness.generation.launched import LaunchedProcesses, join_launched
from eval_harness.generation.processes import ALONE
from eval_harness.shared.program.launcher import Launch


@pytest.fixture
def together(monkeypatch):
    """Calls a function in each of several processes: what it returned or raised, by rank."""
    monkeypatch.setattr(launched, "_FAREWELL_S", 0.3)
    monkeypatch.setattr(launched, "_SYNC_EVERY_S", 0.0)

    def call(function, size=2):
        store = HashStore()

        def one(rank):
            try:
                return function(LaunchedProcesses(store, Launch(rank, size, rank, size)))
            except Exception as error:
                return error

        with ThreadPoolExecutor(size) as threads:
            return list(threads.map(one, range(size)))

    return call


def test_each_process_gets_its_own_value_when_all_have_theirs(together):
    ended = []

    def steps(processes):
        def own():
            time.sleep(0.1 * processes.rank)
            ended.append(processes.rank)
            return processes.rank * 10

        value = processes.together(own)
        return value, sorted(ended)

    assert together(steps, size=3) == [(0, [0, 1, 2]), (10, [0, 1, 2]), (20, [0, 1, 2])]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (DistillensError("no such task"), DistillensError, "process 1 of 2: no such task"),
        (RunFailure("disk full"), RunFailure, "process 1 of 2: disk full"),
        (KeyError("x"), RunFailure, "process 1 of 2: KeyError: 'x'"),
    ],
)
def test_an_error_of_one_process_is_that_of_all_and_the_main_one_says_it(
    together, error, kind, text
):
    def steps(processes):
        def fail():
            if processes.rank == 1:
                raise error

        processes.together(lambda: None)
        processes.together(fail)

    main, other = together(steps)
    assert type(main) is type(other) is kind
    assert str(main) == str(other) == text
    assert not main.said_elsewhere
    assert other.said_elsewhere


def test_an_error_of_all_processes_is_said_as_in_a_single_one(together):
    def fail():
        raise DistillensError("no such task")

    main, other = together(lambda processes: processes.together(fail))
    assert str(main) == str(other) == "no such task"
    assert (main.said_elsewhere, other.said_elsewhere) == (False, True)


def test_a_process_at_work_stops_when_another_fails(together):
    worked = []

    def steps(processes):
        counter = processes.counter()

        def step():
            if processes.rank == 1:
                raise RunFailure("out of memory")
            for _ in range(1000):
                time.sleep(0.01)
                counter.add(1, 5)
                worked.append(1)

        processes.together(step)

    main, _ = together(steps)
    assert str(main) == "process 1 of 2: out of memory"
    assert len(worked) < 1000


def test_a_count_is_that_of_all_processes(together):
    def steps(processes):
        first, second = processes.counter(), processes.counter()

        def step():
            for _ in range(3 + processes.rank):
                first.add(1, 7)
            second.add(2, 0)
            first.flush()
            second.flush()

        processes.together(step)
        return first.totals(), second.totals()

    assert together(steps) == [((7, 49), (4, 0))] * 2


def test_the_main_process_gives_the_others_its_path_or_its_failure(together):
    def good(processes):
        own = Path("out/results.json") if processes.is_main else None
        return processes.together(lambda: processes.path_of_main(own))

    assert together(good) == [Path("out/results.json")] * 2

    def bad(processes):
        def step():
            if processes.is_main:
                raise RunFailure("out: cannot be written")
            return processes.path_of_main(None)

        return processes.together(step)

    assert [str(error) for error in together(bad)] == ["out: cannot be written"] * 2


def test_whoever_waits_for_one_that_does_nothing_gives_up(together, monkeypatch):
    monkeypatch.setattr(launched, "_PATIENCE_S", 0.5)
    is_over, waited = threading.Event(), []

    def steps(processes):
        if processes.rank == 1:
            is_over.wait(20)
            return None
        try:
            return processes.together(lambda: None, while_waiting=lambda: waited.append(1))
        finally:
            is_over.set()

    failure, _ = together(steps)
    assert isinstance(failure, RunFailure)
    assert "process 1 of 2 has done nothing for" in str(failure)
    assert waited


def test_a_process_without_a_launcher_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert join_launched() is ALONE
