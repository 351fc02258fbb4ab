"""Progress of long stages: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

_SECONDS_BETWEEN_LINES = 10.0
Advance = Callable[[int], None]


def _describe(name: str, done: int, total: int, start: float) -> str:
    """One line with count, rate and time left."""
    elapsed = max(time.monotonic() - start, 1e-9)
    rate = done / elapsed
    left = (total - done) / rate if rate > 0 else float("inf")
    return f"{name}: {done:,} of {total:,}, {rate:,.1f}/s, {left:,.0f} s left"


@contextlib.contextmanager
def _lines(name: str, total: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            print(_describe(name, done, total, start), flush=True)

    yield advance
    elapsed = max(time.monotonic() - start, 1e-9)
    rate = done / elapsed
    print(f"{name}: {done:,} of {total:,} in {elapsed:,.1f} s, {rate:,.1f}/s", flush=True)


@contextlib.contextmanager
def _bar(name: str, total: int) -> Iterator[Advance]:
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(),
    )
    start = time.monotonic()
    done = 0
    with rich.progress.Progress(*columns, console=rich.console.Console()) as bar:
        task = bar.add_task(name, total=total, rate="")

        def advance(count: int) -> None:
            nonlocal done
            done += count
            rate = done / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=count, rate=f"{rate:,.1f}/s")

        yield advance


def track(name: str, total: int) -> contextlib.AbstractContextManager[Advance]:
    """Shows the progress of a stage.

    Args:
        name: of the stage.
        total: number of items.

    Returns:
        A context manager that gives a function to call with the number of items just done.
    """
    return _bar(name, total) if sys.stdout.isatty() else _lines(name, total)
