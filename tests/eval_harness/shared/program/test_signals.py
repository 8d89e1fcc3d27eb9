"""Signals are put off over a block, and delivered after it."""

import signal
import threading

import pytest

from eval_harness.shared.program.signals import (
    ENDING_SIGNALS,
    SignalGuard,
    Terminated,
    deferred_signals,
)


@pytest.fixture
def guard():
    guard = SignalGuard()
    guard.install()
    yield guard
    guard.restore()


def test_a_signal_within_the_block_comes_after_it(guard):
    done = []
    with pytest.raises(Terminated, match="SIGUSR1"):  # noqa: PT012 (the block is what is tested)
        with deferred_signals():
            signal.raise_signal(signal.SIGUSR1)
            done.append("first")
            signal.raise_signal(signal.SIGUSR1)
            done.append("second")
        done.append("not reached")
    assert done == ["first", "second"]
    assert guard.first == signal.SIGUSR1


def test_without_a_guard_the_callers_own_handlers_get_it():
    done = []
    before = [signal.getsignal(number) for number in ENDING_SIGNALS]
    with pytest.raises(KeyboardInterrupt), deferred_signals():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append("whole")
    assert done == ["whole"]
    assert [signal.getsignal(number) for number in ENDING_SIGNALS] == before


def test_blocks_may_be_nested_and_the_outermost_delivers(guard):
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with deferred_signals():
            with deferred_signals():
                signal.raise_signal(signal.SIGINT)
            done.append("after the inner one")
        done.append("not reached")
    assert done == ["after the inner one"]


def test_an_error_in_the_block_passes_and_the_handlers_are_back(guard):
    with pytest.raises(OSError, match="full"), deferred_signals():
        raise OSError("full")
    assert signal.getsignal(signal.SIGTERM) is guard


def test_other_threads_may_use_it():
    failures = []

    def work():
        try:
            with deferred_signals():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_an_ignored_signal_stays_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    guard = SignalGuard()
    try:
        guard.install()
        with deferred_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        guard.restore()
        signal.signal(signal.SIGHUP, previous)


def test_further_signals_do_not_disturb_the_end(guard):
    tidied = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            tidied.append(True)
    assert tidied == [True]
    assert guard.first == signal.SIGINT


def test_a_signal_that_comes_much_later_ends_an_end_that_hangs(guard, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr("eval_harness.shared.program.signals._PATIENCE_S", 0.0)
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    assert guard.first == signal.SIGINT
