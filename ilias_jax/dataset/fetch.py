"""Brings the dataset's published files into a folder of the official layout.

A file is done when it has its final name and a record of it lies in `.download/` of the folder.
"""

import concurrent.futures
import dataclasses
import enum
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence

from etils import epath

from ilias_jax import download, files
from ilias_jax.dataset import catalogue
from ilias_jax.dataset.catalogue import CHECKSUMS, Request, Servers
from ilias_jax.download import Advance, Client, DownloadError, RemoteFile, RetryPolicy, Say
from ilias_jax.errors import UserError
from ilias_jax.progress import format_bytes, track


class Status(enum.Enum):
    """How much of a file is there."""

    DONE = "done"  # there, as its record says
    UNCHECKED = "there, not checked"  # without a record, or changed since
    PARTIAL = "partly there"
    MISSING = "to fetch"


@dataclasses.dataclass(frozen=True)
class Record:
    """A file that was found whole."""

    size: int  # bytes
    mtime_ns: int  # modification time in nanoseconds since 1970
    sha256: str  # in lower-case hex
    published: bool  # whether a published digest was there to compare it with
    url: str

    def fits(self, status: os.stat_result) -> bool:
        """Whether a file is still as it was when the record was written."""
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)


def read_record(root: pathlib.Path, name: str) -> Record | None:
    """The record of a file below `root`, None if there is none or it is damaged."""
    return download.read_fields(root / download.STATE_FOLDER / f"{name}.json", Record)


@dataclasses.dataclass(frozen=True)
class Item:
    """A wanted file and what is there of it."""

    file: RemoteFile
    status: Status
    size: int | None  # of the whole file in bytes
    have: int = 0  # bytes that need not be fetched
    failure: str = ""  # why it cannot be had
    note: str = ""  # what happened to it

    @property
    def is_wanted(self) -> bool:
        """Whether it is to be fetched."""
        return self.status is not Status.DONE and not self.failure

    @property
    def missing(self) -> int:
        """Bytes to fetch, as far as they are known."""
        return max(0, (self.size or 0) - self.have) if self.is_wanted else 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a download came to, or what a dry run found."""

    items: list[Item]  # all wanted files; those that are there are DONE
    fetched: int = 0  # files that came over the network
    num_bytes: int = 0  # of these
    seconds: float = 0.0
    notes: Sequence[str] = ()


class _Folder:
    def __init__(self, root: pathlib.Path, client: Client, parallel: int) -> None:
        self._root, self._client, self._parallel = root, client, parallel

    def look(self, file: RemoteFile) -> Item:
        """What is there of a file, without reading it."""
        path = self._root / file.path
        if path.is_dir():
            raise UserError(f"{path} is a folder, but a file of this name is to be fetched")
        if not path.exists():
            return self._absent(file)
        status, record = path.stat(), read_record(self._root, file.path)
        known = record is not None and record.fits(status) and file.sha256 in (None, record.sha256)
        size = status.st_size
        return Item(file, Status.DONE if known else Status.UNCHECKED, size, size)

    def _absent(self, file: RemoteFile, note: str = "") -> Item:
        have = download.resumable(self._root, file)
        return Item(file, Status.PARTIAL if have else Status.MISSING, file.size, have, note=note)

    def _done(self, item: Item, sha256: str, note: str) -> Item:
        file, status = item.file, (self._root / item.file.path).stat()
        published = file.sha256 is not None
        record = Record(status.st_size, status.st_mtime_ns, sha256, published, file.url)
        path = self._root / download.STATE_FOLDER / f"{file.path}.json"
        download.write_fields(path, record)
        return dataclasses.replace(item, status=Status.DONE, size=record.size, note=note)

    def _check(self, item: Item, advance: Advance) -> Item:
        """Takes a file that lies there if it is right; it is to be fetched otherwise."""
        file, path = item.file, self._root / item.file.path
        if item.status is not Status.UNCHECKED:
            return item
        found, record = files.sha256(path), read_record(self._root, file.path)
        advance(item.have)
        if file.sha256 is not None:
            right = found == file.sha256
        elif not (right := record is not None and record.sha256 == found):
            broken = file.path.endswith(".gz") and download.gzip_fault(path)
            right = not broken and self._client.size(file) == item.have
        if right:
            return self._done(item, found, "there already, taken after a check")
        return self._absent(file, "replaced, because what lay there was not the published file")

    def _fetch(self, item: Item, advance: Advance) -> Item:
        found = download.fetch(self._client, self._root, item.file, advance)
        return self._done(item, found, item.note)

    def _each(
        self, work: Callable[[Item, Advance], Item], items: list[Item], show: Advance
    ) -> list[Item]:
        """The items, in order, after `work` on the wanted ones; what cannot be had says why."""

        def advance(count: int) -> None:
            if self._client.stopped.is_set():
                raise download.StoppedError
            show(count)

        def attempt(item: Item) -> Item:
            try:
                return work(item, advance) if item.is_wanted else item
            except DownloadError as error:
                return dataclasses.replace(item, failure=str(error))

        with concurrent.futures.ThreadPoolExecutor(self._parallel) as executor:
            futures = [executor.submit(attempt, item) for item in items]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()  # a full disk ends the run, a file that failed does not
            except BaseException:
                self._client.stop()
                executor.shutdown(cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def ask_sizes(self, items: list[Item]) -> list[Item]:
        def ask(item: Item, unused: Advance) -> Item:
            return dataclasses.replace(item, size=self._client.size(item.file))

        return self._each(ask, items, lambda count: None)

    def survey(self, wanted: Iterable[RemoteFile]) -> list[Item]:
        """What is there of files, of which those that are not known are read once."""
        items = [self.look(file) for file in wanted]
        doubtful = [item.have for item in items if item.status is Status.UNCHECKED]
        if doubtful:
            with track("check files", sum(doubtful), in_bytes=True) as show:
                items = self._each(self._check, items, show)
        items = self.ask_sizes(items)
        check_space(self._root, items)
        for item in items:
            if item.status is Status.DONE:  # a kill in the last moment may have left its part
                download.remove_part(self._root / item.file.path)
        return items

    def bring(self, items: list[Item]) -> Outcome:
        if not any(item.is_wanted for item in items):
            return Outcome(items)
        start = time.monotonic()
        with track("download", sum(item.missing for item in items), in_bytes=True) as show:
            after = self._each(self._fetch, items, show)
        pairs = [pair for pair in zip(items, after, strict=True) if pair[0].is_wanted]
        fetched = [(b.size or 0) - a.have for a, b in pairs if b.status is Status.DONE]
        return Outcome(after, len(fetched), sum(fetched), time.monotonic() - start)


def check_space(root: pathlib.Path, items: list[Item]) -> None:
    """Raises UserError if the disk is too small for what is missing."""
    missing = [(root / item.file.path, item.missing) for item in items]
    download.check_space(missing, "ask for less with --parts or --tars")


def _announce(root: pathlib.Path, items: list[Item]) -> str:
    wanted = [item for item in items if item.is_wanted]
    done = sum(item.status is Status.DONE for item in items)
    unknown = sum(item.size is None for item in wanted)
    more = f" and {unknown} of unknown size" if unknown else ""
    missing = format_bytes(sum(item.missing for item in wanted))
    free = format_bytes(download.free_space(root))
    return (
        f"{root}: {done:,} of {len(items):,} files are there; "
        f"{len(wanted):,} to fetch ({missing}{more}), {free} free"
    )


def _refuse_failures(items: list[Item]) -> None:
    if failed := [item for item in items if item.failure]:
        lines = "\n".join(f"  {item.file.path}: {item.failure}" for item in failed)
        raise UserError(
            f"{len(failed):,} of {len(items):,} files could not be fetched:\n{lines}\n"
            f"The other {len(items) - len(failed):,} are done. Run the same command again to go "
            "on: what is done is not fetched again, and what is partly there is resumed"
        )


def bring_dataset(
    root: pathlib.Path,
    request: Request,
    servers: Servers,
    policy: RetryPolicy,
    parallel: int = 4,
    say: Say = print,
    dry_run: bool = False,
) -> Outcome:
    """Brings the wanted files below `root`, verified, for one process at a time.

    What is done is not fetched again; a file that lies there without a record is read once and
    taken if it is right. `parallel` files, 1 to 64, come at the same time; `say` is called with
    lines for the user, from any thread. A dry run only looks and asks for sizes.

    Raises:
        UserError: a list of files cannot be had or is hostile, the disk is too small or does not
            take what comes, another download is at work in `root`, or at least one file could not
            be fetched; the others are then done.
    """
    if not 1 <= parallel <= download.LARGEST_PARALLEL:
        raise UserError(f"--parallel {parallel}: allowed are 1 to {download.LARGEST_PARALLEL}")
    with Client(policy, say) as client:
        folder = _Folder(root, client, parallel)
        wanted, checksums, notes = catalogue.read(client, request, servers)
        notes = [note.format(root=root) for note in notes]
        if dry_run:
            return Outcome(folder.ask_sizes([folder.look(file) for file in wanted]), notes=notes)
        with download.exclusive(root), download.on_disk(root):
            items = folder.survey(wanted)
            for left in root.glob(f".{CHECKSUMS}.*.tmp"):
                left.unlink()
            if checksums is not None:
                files.write_bytes(epath.Path(root / CHECKSUMS), checksums)
            say(_announce(root, items))
            outcome = folder.bring(items)
    for note in notes:
        say(f"note: {note}")
    _refuse_failures(outcome.items)
    return dataclasses.replace(outcome, notes=notes)
