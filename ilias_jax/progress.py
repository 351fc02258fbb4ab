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


def format_bytes(count: float) -> str:
    """A size in decimal units, as the dataset's 6.3 TB are: 999 B, 1.0 kB, 63.2 MB."""
    power = 0
    while count >= 999.95 and power < len(_BYTE_UNITS) - 1:
        count /= 1000
        power += 1
    return f"{count:,.0f} B" if power == 0 else f"{count:,.1f} {_BYTE_UNITS[power]}"


@contextlib.contextmanager
def track(name: str, total: int, in_bytes: bool = False) -> Iterator[Advance]:
    """Shows the progress of a stage.

    Args:
        name: of the stage.
        total: number of items, or of bytes.
        in_bytes: show numbers as sizes, `1.2 GB`.

    Yields:
        A function to call with the number of items just done; a negative number takes some back.
        Several threads may call it.
    """
    count_of = format_bytes if in_bytes else "{:,.0f}".format
    rate_of = format_bytes if in_bytes else "{:,.1f}".format
    is_terminal, lock = sys.stdout.isatty(), threading.Lock()
    columns = ("{task.description}", rich.progress.BarColumn(), "{task.fields[state]}")
    bar = rich.progress.Progress(
        *columns, rich.progress.TimeRemainingColumn(), console=rich.console.Console()
    )
    task = bar.add_task(name, total=total, state="")
    start = last = time.monotonic()
    done = 0

    def elapsed() -> float:
        return max(time.monotonic() - start, 1e-9)

    def advance(count: int) -> None:
        nonlocal done, last
        with lock:
            done += count
            rate = done / elapsed()
            if is_terminal:
                state = f"{count_of(done)}/{count_of(total)} {rate_of(rate)}/s"
                bar.update(task, completed=done, state=state)
            elif time.monotonic() - last >= _SECONDS_BETWEEN_LINES and done < total:
                last = time.monotonic()
                left = (total - done) / rate if rate > 0 else float("inf")
                state = f"{count_of(done)} of {count_of(total)}, {rate_of(rate)}/s"
                print(f"{name}: {state}, {left:,.0f} s left", flush=True)

    with bar if is_terminal else contextlib.nullcontext():
        yield advance
    if not is_terminal:
        state, seconds = f"{count_of(done)} of {count_of(total)}", elapsed()
        print(f"{name}: {state} in {seconds:,.1f} s, {rate_of(done / seconds)}/s", flush=True)
