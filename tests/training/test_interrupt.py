"""Signals: which stop a run, which stop it at once, and which are not a run's to handle."""

import pickle
import signal
import threading
import time

import pytest

from semiisp_plugin.io.signals import STOP_SIGNALS
from semiisp_plugin.training.interrupt import Interrupt, Interrupted, StopWaiting


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted(number):
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        signal.raise_signal(number)
        assert interrupt.received == number
    assert signal.getsignal(number) is before


def test_sigterm_that_torchrun_repeats_is_one(monkeypatch):
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        later = time.monotonic() + 5
        monkeypatch.setattr(time, "monotonic", lambda: later)
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.received == signal.SIGTERM


def test_second_ctrl_c_stops_at_once(monkeypatch):
    with Interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # of a terminal that repeats the key
        later = time.monotonic() + 2
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_waits_is_stopped_and_nothing_else():
    with Interrupt() as interrupt:
        with interrupt.waiting():
            pass
        with pytest.raises(StopWaiting), interrupt.waiting():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopWaiting), interrupt.waiting():  # it had come before
            pytest.fail("a loader that hangs would be waited for")


def test_what_is_ignored_stays_so_and_threads_are_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
            assert interrupt.received is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    failed = []

    def elsewhere() -> None:
        try:
            with Interrupt():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert failed == []


def test_interrupted_goes_through_processes():
    again = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM, 3000)))
    assert (again.signal, again.iteration) == (signal.SIGTERM, 3000)
    assert str(again) == "SIGTERM after iteration 3,000, which is saved"
