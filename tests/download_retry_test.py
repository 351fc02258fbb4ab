"""Waits between attempts."""

import threading

import pytest

from ilias_jax.download.retry import Attempts, GivenUpError, Patience, StoppedError, TemporaryError


class Event(threading.Event):
    """Writes down how long it was waited for."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return super().wait(0)


def test_waits_double_to_a_bound_with_jitter():
    event, said = Event(), []
    attempts = Attempts("a.tar", Patience(retries=6, longest_wait=8.0), event, said.append)
    for _ in range(6):
        attempts.failed(TemporaryError("broke"))
    for wait, full in zip(event.waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert full / 2 <= wait <= full
    assert said[5].startswith("a.tar: broke; again in ") and said[5].endswith("(retry 6 of 6)")
    with pytest.raises(GivenUpError, match="broke; given up after it failed 7 times in a row"):
        attempts.failed(TemporaryError("broke"))


def test_progress_begins_anew():
    event = Event()
    attempts = Attempts("a", Patience(retries=1), event, lambda line: None)
    for _ in range(5):
        attempts.failed(TemporaryError("broke"))
        attempts.progressed()
    assert max(event.waits) <= 1.0


def test_the_servers_wish_is_bounded():
    event = Event()
    attempts = Attempts("a", Patience(longest_retry_after=30.0), event, lambda line: None)
    attempts.failed(TemporaryError("busy", wait=20.0))
    attempts.failed(TemporaryError("busy", wait=500.0))
    assert event.waits == [20.0, 30.0]


def test_a_stop_is_not_another_attempt():
    event = Event()
    event.set()
    with pytest.raises(StoppedError):
        Attempts("a", Patience(), event, lambda line: None).failed(TemporaryError("broke"))


def test_no_retries_at_all():
    attempts = Attempts("a", Patience(retries=0), Event(), lambda line: None)
    with pytest.raises(GivenUpError, match="failed once"):
        attempts.failed(TemporaryError("broke"))
