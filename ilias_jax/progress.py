"""Progress of long stages: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

_SECONDS_BETWEEN_LINES = 10.0
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
Advance = Callable[[int], None]
Show = Callable[[float], str]


def format_bytes(count: float) -> str:
    """A size in decimal units, as the dataset's 6.3 TB are: 999 B, 1.0 kB, 63.2 MB."""
    power = 0
    while count >= 999.95 and power < len(_BYTE_UNITS) - 1:
        count /= 1000
        power += 1
    return f"{count:,.0f} B" if power == 0 else f"{count:,.1f} {_BYTE_UNITS[power]}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _rate(number: float) -> str:
    return f"{number:,.1f}"


def _describe(
    name: str, done: int, total: int, start: float, show: tuple[Show, Show] = (_count, _rate)
) -> str:
    """One line with count, rate and time left."""
    count, rate_of = show
    elapsed = max(time.monotonic() - start, 1e-9)
    rate = done / elapsed
    left = (total - done) / rate if rate > 0 else float("inf")
    return f"{name}: {count(done)} of {count(total)}, {rate_of(rate)}/s, {left:,.0f} s left"


@contextlib.contextmanager
def _lines(name: str, total: int, show: tuple[Show, Show]) -> Iterator[Advance]:
    count_of, rate_of = show
    start = last = time.monotonic()
    done = 0
    lock = threading.Lock()

    def advance(count: int) -> None:
        nonlocal done, last
        with lock:
            done += count
            if time.monotonic() - last >= _SECONDS_BETWEEN_LINES and done < total:
                last = time.monotonic()
                print(_describe(name, done, total, start, show), flush=True)

    yield advance
    elapsed = max(time.monotonic() - start, 1e-9)
    rate = rate_of(done / elapsed)
    print(
        f"{name}: {count_of(done)} of {count_of(total)} in {elapsed:,.1f} s, {rate}/s", flush=True
    )


@contextlib.contextmanager
def _bar(name: str, total: int, show: tuple[Show, Show]) -> Iterator[Advance]:
    count_of, rate_of = show
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[count]}"),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(),
    )
    start = time.monotonic()
    done = 0
    lock = threading.Lock()
    with rich.progress.Progress(*columns, console=rich.console.Console()) as bar:
        task = bar.add_task(name, total=total, rate="", count=f"{count_of(0)}/{count_of(total)}")

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                rate = done / max(time.monotonic() - start, 1e-9)
                state = f"{count_of(done)}/{count_of(total)}"
                bar.update(task, completed=done, count=state, rate=f"{rate_of(rate)}/s")

        yield advance


def track(
    name: str, total: int, in_bytes: bool = False
) -> contextlib.AbstractContextManager[Advance]:
    """Shows the progress of a stage.

    Args:
        name: of the stage.
        total: number of items, or of bytes.
        in_bytes: show numbers as sizes, `1.2 GB`.

    Returns:
        A context manager that gives a function to call with the number of items just done; a
        negative number takes some back. Several threads may call it.
    """
    show = (format_bytes, format_bytes) if in_bytes else (_count, _rate)
    return _bar(name, total, show) if sys.stdout.isatty() else _lines(name, total, show)
