"""An iterator that is read ahead on a thread, while the caller works on what it has."""

import itertools
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
# What the thread hands over: one item, none at the end, or the error that ended it.
_Entry = list | BaseException


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yields the items of an iterable, which a thread reads up to `depth` items ahead.

    The thread begins with the first item that is asked for and has ended when the generator has:
    at the end, on an error of either side, or when it is closed. A read that is under way then is
    waited for. Neither side keeps an item that it has handed on.

    Args:
        items: read on one other thread; if it is a generator it is closed there.
        depth: at least 1, items that are read or being read beside those the caller has.

    Raises:
        ValueError: depth is less than 1.
        BaseException: whatever reading raises, at its place among the items.
    """
    if depth < 1:
        raise ValueError(f"depth={depth} is not allowed; expected at least 1")
    entries: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
    free, stopped = threading.Semaphore(depth), threading.Event()
    thread = threading.Thread(
        target=_read, args=(items, entries, free, stopped), name="read ahead", daemon=True
    )
    try:
        thread.start()
        while True:
            entry = entries.get()
            if isinstance(entry, BaseException):
                raise entry
            if not entry:
                return
            free.release()
            yield entry.pop()
    finally:
        stopped.set()
        free.release()
        if thread.ident is not None:
            thread.join()


def _read(
    items: Iterable[T],
    entries: queue.SimpleQueue[_Entry],
    free: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    """The thread: reads an item whenever a place is free."""
    try:
        iterator = iter(items)
        try:
            while free.acquire() and not stopped.is_set():
                entry = list(itertools.islice(iterator, 1))
                if not entry:
                    break
                entries.put(entry)
                del entry
        finally:
            if isinstance(iterator, Generator):
                iterator.close()
        entries.put([])
    except BaseException as error:
        entries.put(error)
