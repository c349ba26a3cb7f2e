"""Signals as data: real signals to this process, and to one of its own."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from conftest import Python
from emitterd.service.signals import HANGUP, STOPS, Signals, hold_hangup


@pytest.mark.parametrize("expected", STOPS)
def test_signal_is_counted_and_ends_the_wait(expected: signal.Signals) -> None:
    """SIGTERM and SIGINT are counted, and a wait ends at once."""
    with Signals() as signals:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), expected))
        timer.start()
        began = time.monotonic()
        signals.wait(60.0)
        assert time.monotonic() - began < 30.0
        timer.join()
        assert signals.stops == 1


def test_signal_before_the_wait_is_not_slept_over() -> None:
    """A signal that came between two waits ends the next one."""
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        signals.wait(60.0)
        assert time.monotonic() - began < 30.0
        assert signals.stops == 1


def test_wait_ends_with_its_time() -> None:
    """Without a signal the wait ends by itself."""
    with Signals() as signals:
        signals.wait(0.01)
        assert signals.stops == 0


def test_second_signal_is_counted_too() -> None:
    """The second stop, which ends the drain, is reported from the first."""
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.stops == 2


def test_flood_of_signals_ends() -> None:
    """More signals than the pipe takes neither block nor raise."""
    with Signals() as signals:
        for _ in range(70_000):
            signal.raise_signal(signal.SIGTERM)
        signals.wait(0.0)
        assert signals.stops == 70_000


def test_former_handlers_come_back() -> None:
    """Once left, the handlers and the wakeup descriptor are as they were."""
    before = [signal.getsignal(stop) for stop in STOPS]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    with Signals():
        assert [signal.getsignal(stop) for stop in STOPS] != before
    assert [signal.getsignal(stop) for stop in STOPS] == before
    assert signal.set_wakeup_fd(wakeup) == wakeup


def test_hangup_is_counted_apart() -> None:
    """SIGHUP ends a wait and is no stop."""
    with Signals(hangup=True) as signals:
        os.kill(os.getpid(), HANGUP)
        os.kill(os.getpid(), HANGUP)
        began = time.monotonic()
        signals.wait(60.0)
        assert time.monotonic() - began < 30.0
        assert (signals.hangups, signals.stops) == (2, 0)


def test_hangup_is_left_alone_unless_asked_for() -> None:
    """What runs in a terminal ends with it: the handler stays as it was."""
    before = signal.getsignal(HANGUP)
    with Signals():
        assert signal.getsignal(HANGUP) is before


def test_held_hangup_is_not_lost() -> None:
    """A SIGHUP that came before anybody asked is counted then; after, it is held."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    before = signal.getsignal(HANGUP)
    try:
        hold_hangup()
        # To this thread, as others may have been left by earlier tests: a signal
        # to the process goes to any that does not hold it.
        signal.pthread_kill(threading.get_ident(), HANGUP)
        with Signals(hangup=True) as signals:
            signals.wait(10.0)
            assert signals.hangups == 1
        assert HANGUP in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.getsignal(HANGUP) is before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_wait_restarts_after_a_foreign_signal(python: Python, tmp_path: Path) -> None:
    """A signal without a handler of ours (SIGCHLD) does not end the wait early."""
    script = """
import os, signal, threading, time
from emitterd.service.signals import Signals
with Signals() as signals:
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGCHLD)).start()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    signals.wait(30)
    print(signals.stops, time.monotonic() - began >= 0.2)
"""
    assert python(script, cwd=tmp_path).split() == ["1", "True"]
