"""Fetches many files at once: looks at what is there, the disk, then the network; sums up."""

import concurrent.futures
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable

from etils import epath

from ilias_jax import atomic
from ilias_jax.download import catalogue, plan, state
from ilias_jax.download.plan import Item, Standing
from ilias_jax.download.retry import FinalError, Patience, Say, StoppedError
from ilias_jax.download.transfer import Transfer
from ilias_jax.download.web import Web
from ilias_jax.errors import UserError
from ilias_jax.progress import format_bytes, track

_CHECKSUMS = "checksums.txt"
_LARGEST_PARALLEL = 64


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a download came to.

    Attributes:
        items: all wanted files; those that are there now are DONE.
        fetched: number of files that came over the network.
        num_bytes: that came over the network.
        seconds: that this took.
        notes: from the catalogue.
    """

    items: tuple[Item, ...]
    fetched: int
    num_bytes: int
    seconds: float
    notes: tuple[str, ...] = ()


def _sweep(root: pathlib.Path, items: list[Item]) -> None:
    """Removes temporary files of a killed run, in the folders where this one will write."""
    folders = {(root / item.file.path).parent for item in items} | {root}
    for folder in sorted(folders):
        state.sweep(folder, lambda name: name == _CHECKSUMS or name.endswith(".part.json"))
    for folder in sorted(path for path in (root / state.STATE_FOLDER).rglob("*") if path.is_dir()):
        state.sweep(folder, lambda name: name.endswith(".json"))
    state.sweep(root / state.STATE_FOLDER, lambda name: name.endswith(".json"))


def _announce(root: pathlib.Path, items: list[Item]) -> str:
    """One line before the transfers begin."""
    wanted = [item for item in items if item.standing is not Standing.DONE and not item.failure]
    unknown = sum(item.size is None for item in wanted)
    more = f" and {unknown} of unknown size" if unknown else ""
    missing = format_bytes(sum(item.missing for item in wanted))
    done = sum(item.standing is Standing.DONE for item in items)
    return (
        f"{root}: {done:,} of {len(items):,} files are there; "
        f"{len(wanted):,} to fetch ({missing}{more}), {format_bytes(plan.free_space(root))} free"
    )


class _Fetcher:
    """Transfers of one run, in threads."""

    def __init__(
        self, root: pathlib.Path, web: Web, records: state.Records, advance: Callable[[int], None]
    ) -> None:
        self._root, self._web, self._records, self._advance = root, web, records, advance

    def _one(self, item: Item) -> Item:
        if self._web.stop.is_set():
            raise StoppedError
        transfer = Transfer(self._root, item.file, self._web, self._records, self._advance)
        try:
            record = transfer.run()
        except FinalError as error:
            return dataclasses.replace(item, failure=str(error))
        return dataclasses.replace(item, standing=Standing.DONE, size=record.size)

    def all(self, items: list[Item], parallel: int) -> dict[str, Item]:
        """Fetches the items; those that failed say why."""
        with concurrent.futures.ThreadPoolExecutor(parallel) as executor:
            futures = [executor.submit(self._one, item) for item in items]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()  # a full disk ends the run, a file that failed does not
            except BaseException:
                self._web.halt()
                executor.shutdown(cancel_futures=True)
                raise
        return {item.file.path: item for item in (future.result() for future in futures)}


def _survey(
    root: pathlib.Path,
    found: catalogue.Catalogue,
    records: state.Records,
    web: Web,
    parallel: int,
    less: str,
) -> list[Item]:
    """What is there and what is missing; nothing is fetched before the disk holds all of it."""
    items = [plan.look(root, file, records) for file in found.files]
    with state.on_disk(root):
        _sweep(root, items)
    items = plan.check_present(root, items, records, web, parallel)
    items = plan.ask_sizes(items, web, parallel)
    plan.check_space(root, items, less)
    plan.clean(root, items)
    if found.checksums is not None:
        with state.on_disk(root / _CHECKSUMS):
            atomic.write_bytes(epath.Path(root / _CHECKSUMS), found.checksums)
    web.say(_announce(root, items))
    return items


def _fetch(
    root: pathlib.Path, items: list[Item], records: state.Records, web: Web, parallel: int
) -> Outcome:
    """Fetches what is missing."""
    wanted = [item for item in items if item.standing is not Standing.DONE and not item.failure]
    if not wanted:
        return Outcome(tuple(items), 0, 0, 0.0)
    start, received, lock = time.monotonic(), 0, threading.Lock()
    with track("download", sum(item.missing for item in wanted), in_bytes=True) as show:

        def advance(count: int) -> None:
            nonlocal received
            with lock:
                received += max(0, count)
            show(count)

        results = _Fetcher(root, web, records, advance).all(wanted, parallel)
    fetched = sum(item.standing is Standing.DONE for item in results.values())
    items = [results.get(item.file.path, item) for item in items]
    return Outcome(tuple(items), fetched, received, time.monotonic() - start)


def _refuse_failures(items: tuple[Item, ...]) -> None:
    failed = [item for item in items if item.failure]
    if not failed:
        return
    lines = "\n".join(f"  {item.file.path}: {item.failure}" for item in failed)
    others = len(items) - len(failed)
    raise UserError(
        f"{len(failed):,} of {len(items):,} files could not be fetched:\n{lines}\n"
        f"The other {others:,} are done. Run the same command again to go on: what is done is not "
        "fetched again, and what is partly there is resumed"
    )


def check_parallel(parallel: int) -> None:
    """Raises UserError if a number of simultaneous transfers is not allowed."""
    if not 1 <= parallel <= _LARGEST_PARALLEL:
        raise UserError(f"--parallel {parallel}: allowed are 1 to {_LARGEST_PARALLEL}")


def fetch_listed(
    root: pathlib.Path,
    found: catalogue.Catalogue,
    web: Web,
    parallel: int,
    less: str = plan.ASK_FOR_LESS,
) -> Outcome:
    """Brings listed files below `root`, verified; for one process at a time.

    Args:
        root: folder, made if missing, which the caller has locked (`state.locked`).
        found: the files.
        web: how.
        parallel: transfers at the same time.
        less: what a user may do beside freeing space if the disk is too small.

    Returns:
        What happened; a file that could not be fetched says why, the others are done.

    Raises:
        UserError: the disk is too small or does not take what comes.
    """
    records = state.Records(root)
    items = _survey(root, found, records, web, parallel, less)
    return _fetch(root, items, records, web, parallel)


def download(
    root: pathlib.Path,
    request: catalogue.Request,
    servers: catalogue.Servers,
    patience: Patience,
    parallel: int = 4,
    say: Say = print,
) -> Outcome:
    """Brings the wanted files below `root`, verified.

    A file is done when its final name exists and a record of it lies in `<root>/.download/`. What
    is done is not fetched again; a file that lies there without a record is read once and taken if
    it is right.

    Args:
        root: folder, made if missing.
        request: what is wanted.
        servers: where to look.
        patience: retries and time limits.
        parallel: transfers at the same time, 1 to 64.
        say: is called with lines for the user, from any thread.

    Returns:
        What happened.

    Raises:
        UserError: a list of files cannot be had or is hostile, the disk is too small or does not
            take what comes, another download is at work in `root`, or at least one file could not
            be fetched; the others are then done.
    """
    check_parallel(parallel)
    with Web(patience, say) as web:
        found = catalogue.read(web, request, servers)
        with state.locked(root):
            outcome = fetch_listed(root, found, web, parallel)
    notes = tuple(note.format(root=root) for note in found.notes)
    for note in notes:
        say(f"note: {note}")
    _refuse_failures(outcome.items)
    return dataclasses.replace(outcome, notes=notes)
