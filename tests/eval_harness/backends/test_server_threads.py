"""Threads whose results come as they finish, and what happens when one of them fails."""

import threading

import pytest

from eval_harness.backends.server_threads import in_parallel


def test_every_job_is_done_once_by_as_many_threads_as_were_asked_for():
    together = threading.Barrier(3, timeout=30)

    def work(job, stop):
        together.wait()
        return job * job

    assert sorted(in_parallel(range(6), work, num_threads=3)) == [(n, n * n) for n in range(6)]
    assert list(in_parallel([], work, num_threads=3)) == []


def test_a_failure_comes_after_the_results_of_those_that_were_running():
    failed, begun = threading.Event(), []

    def work(job, stop):
        begun.append(job)
        if job == 1:
            failed.set()
            raise ValueError("one")
        # The others end after the failure, which has told them to stop.
        assert failed.wait(30)
        assert stop.wait(30)
        return job

    found = in_parallel(range(100), work, num_threads=4)
    results = []
    with pytest.raises(ValueError, match="one"):
        results += iter(lambda: next(found), None)
    assert 1 not in [job for job, _ in results]
    assert len(begun) <= 4


def test_a_caller_who_stops_reading_waits_for_nothing():
    release, told = threading.Event(), []

    def work(job, stop):
        if job:
            told.append(stop.wait(30))
            release.wait(30)
        return job

    found = in_parallel(range(3), work, num_threads=3)
    assert next(found) == (0, 0)
    found.close()  # returns although two jobs still run
    assert not release.is_set()
    release.set()
