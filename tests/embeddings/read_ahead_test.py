"""Reading ahead: the same items, errors at their place, and never a thread left behind."""

import contextlib
import os
import signal
import threading
import time
import traceback
import weakref

import numpy as np
import pytest

from ilias_jax.embeddings.sources import read_ahead

SECONDS = 20  # far more than anything here takes


def _readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read ahead")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert _readers() == []
    yield
    assert _readers() == []


def _wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_the_items_come_in_order(count, depth):
    assert list(read_ahead(range(count), depth)) == list(range(count))
    assert list(read_ahead(iter([None] * count), depth)) == [None] * count


@pytest.mark.parametrize("depth", [1, 3])
def test_so_many_are_read_ahead_and_no_more(depth):
    read = []

    def items():
        for item in range(20):
            read.append(item)
            yield item

    found = read_ahead(items(), depth)
    assert read == []  # nothing runs before the first is asked for
    for item in range(10):
        assert next(found) == item
        _wait_until(lambda: len(read) == item + 1 + depth)  # noqa: B023
    time.sleep(0.05)
    assert len(read) == 10 + depth
    found.close()


def test_reading_goes_on_while_the_caller_works():
    """Reader and caller each wait for the other: either alone would never come through."""
    asked, done = threading.Barrier(2), []

    def items():
        yield 0
        asked.wait(SECONDS)
        yield 1

    for item in read_ahead(items(), 1):
        if item == 0:
            asked.wait(SECONDS)
        done.append(item)
    assert done == [0, 1]


class ReadError(Exception):
    pass


@pytest.mark.parametrize("depth", [1, 5])
@pytest.mark.parametrize("good", [0, 3])
def test_an_error_of_the_reader_comes_at_its_place_with_its_traceback(good, depth):
    error, found = ReadError("row 7"), []

    def where_it_broke():
        raise error

    def items():
        yield from range(good)
        where_it_broke()

    with pytest.raises(ReadError) as caught:
        for item in read_ahead(items(), depth):
            found.append(item)
    assert caught.value is error and found == list(range(good))
    assert "where_it_broke" in "".join(traceback.format_exception(error))


def test_what_cannot_be_iterated_is_the_callers_error():
    with pytest.raises(TypeError, match="not iterable"):
        next(read_ahead(3, 1))


def test_an_error_of_a_reader_that_is_closed_is_not_lost_at_the_end():
    def items():
        try:
            yield 1
        finally:
            raise ReadError("close")

    with pytest.raises(ReadError, match="close"):
        list(read_ahead(items(), 1))


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_early_closes_the_reader(depth, taken):
    closed = []

    def items():
        try:
            yield from iter(int, 1)  # endless
        finally:
            closed.append(threading.current_thread().name)

    with contextlib.closing(read_ahead(items(), depth)) as found:
        for _ in range(taken):
            next(found)
    assert closed == (["read ahead_0"] if taken else [])
    assert _readers() == []


def test_an_error_of_the_caller_ends_the_reader():
    def search():
        for item in read_ahead(iter(int, 1), 2):
            raise ReadError(item)

    with pytest.raises(ReadError):
        search()
    assert _readers() == []


def test_ctrl_c_while_the_caller_waits_ends_both():
    began, release = threading.Event(), threading.Event()

    def items():
        yield 0
        began.set()
        release.wait(SECONDS)
        yield 1

    def interrupt():
        began.wait(SECONDS)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        release.set()  # the read under way comes back

    sender = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            list(read_ahead(items(), 1))
    finally:
        sender.join()
        signal.signal(signal.SIGINT, before)
    assert _readers() == []


def test_items_that_were_handed_on_are_not_kept():
    alive = []

    def items():
        for _ in range(6):
            yield _tracked(alive)

    with contextlib.closing(read_ahead(items(), 1)) as found:
        for _ in range(6):
            block = next(found)
            _wait_until(lambda: len(alive) == 6 or _num_alive(alive) == 2)
            assert block.sum() == 0
            assert _num_alive(alive) <= 2  # the caller's and the one ahead
            del block


def _tracked(alive):
    block = np.zeros(1000)
    alive.append(weakref.ref(block))
    return block


def _num_alive(alive):
    return sum(each() is not None for each in alive)
