"""What of a list of files is there, whole or in part, and whether the disk holds the rest."""

import collections
import concurrent.futures
import dataclasses
import enum
import pathlib
import shutil
from collections.abc import Callable, Iterable

from ilias_jax.download.files import RemoteFile
from ilias_jax.download.part import Part, remove_leftovers
from ilias_jax.download.retry import GivenUpError, StoppedError
from ilias_jax.download.state import Records, digest, on_disk
from ilias_jax.download.transfer import gzip_fault
from ilias_jax.download.web import Web
from ilias_jax.errors import UserError
from ilias_jax.progress import format_bytes, track

ASK_FOR_LESS = ", or ask for less with --parts or --tars"


class Standing(enum.Enum):
    """How much of a file is there."""

    DONE = "done"  # there, as its record says
    UNCHECKED = "there, not checked"  # without a record, or changed since
    PARTIAL = "partly there"
    MISSING = "to fetch"


@dataclasses.dataclass(frozen=True)
class Item:
    """A wanted file and what is there of it.

    Attributes:
        file: as published.
        standing: how much is there.
        size: of the whole file in bytes, None if unknown.
        have: bytes that need not be fetched.
        failure: why it cannot be had, "" if that is not known yet.
        note: what happened to it, "" for nothing worth a word.
    """

    file: RemoteFile
    standing: Standing
    size: int | None
    have: int = 0
    failure: str = ""
    note: str = ""

    @property
    def missing(self) -> int:
        """Bytes to fetch, as far as they are known."""
        done = self.standing is Standing.DONE
        return 0 if done or self.size is None else max(0, self.size - self.have)


def look(root: pathlib.Path, file: RemoteFile, records: Records) -> Item:
    """What is there of a file, without reading it."""
    path = root / file.path
    with on_disk(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder, but a file of this name is to be fetched")
        if not path.exists():
            return _absent(path, file)
        size, record = path.stat().st_size, records.get(file.path)
        known = record is not None and record.fits(path.stat())
        right = record is not None and file.sha256 in (None, record.sha256)
        return Item(file, Standing.DONE if known and right else Standing.UNCHECKED, size, size)


def _absent(path: pathlib.Path, file: RemoteFile, note: str = "") -> Item:
    """A file that is to be fetched, or the rest of it."""
    have = Part(path, file.url, file.sha256).resumable()
    standing = Standing.PARTIAL if have else Standing.MISSING
    return Item(file, standing, file.size, have, note=note)


def _with_size(item: Item, web: Web) -> Item:
    """The item with the size that the server gives."""
    if item.size is not None and item.standing is not Standing.UNCHECKED:
        return item
    try:
        size = item.file.size if item.file.size is not None else web.size(item.file)
    except GivenUpError as error:
        return dataclasses.replace(item, failure=str(error))
    except StoppedError:
        return item
    return dataclasses.replace(item, size=size)


def _is_right(root: pathlib.Path, item: Item, found: str, records: Records, web: Web) -> bool:
    """Whether a file that lies there with this digest is the published one."""
    file, path = item.file, root / item.file.path
    if file.sha256 is not None:
        return found == file.sha256
    record = records.get(file.path)
    if record is not None and record.sha256 == found:
        return True
    size = web.size(file)
    return size == path.stat().st_size and not (file.path.endswith(".gz") and gzip_fault(path))


def _checked(
    root: pathlib.Path, item: Item, records: Records, web: Web, advance: Callable[[int], None]
) -> Item:
    """Takes a file that lies there if it is right; it is to be fetched otherwise."""
    file, path = item.file, root / item.file.path

    def go_on(count: int) -> None:
        if web.stop.is_set():
            raise StoppedError
        advance(count)

    with on_disk(path):
        found = digest(path, go_on)
    try:
        right = _is_right(root, item, found, records, web)
    except GivenUpError as error:
        return dataclasses.replace(item, failure=str(error))
    if right:
        records.put(file.path, found, file.sha256 is not None, file.url)
        return dataclasses.replace(
            item, standing=Standing.DONE, note="there already, taken after a check"
        )
    return _absent(path, file, "replaced, because what lay there was not the published file")


def _each(
    web: Web, parallel: int, work: Callable[[Item], Item], items: Iterable[Item]
) -> list[Item]:
    """The items after `work`, in order, several at once."""
    with concurrent.futures.ThreadPoolExecutor(parallel) as executor:
        try:
            return list(executor.map(work, items))
        except BaseException:
            web.halt()
            executor.shutdown(cancel_futures=True)
            raise


def check_present(
    root: pathlib.Path, items: list[Item], records: Records, web: Web, parallel: int
) -> list[Item]:
    """Reads the files that lie there without a record, or changed since, and judges them."""
    doubtful = [item for item in items if item.standing is Standing.UNCHECKED]
    if not doubtful:
        return items
    with track("check files", sum(item.have for item in doubtful), in_bytes=True) as advance:
        judged = _each(
            web, parallel, lambda item: _checked(root, item, records, web, advance), doubtful
        )
    by_path = {item.file.path: item for item in judged}
    return [by_path.get(item.file.path, item) for item in items]


def ask_sizes(items: list[Item], web: Web, parallel: int) -> list[Item]:
    """Asks the servers for the sizes that are not published."""
    return _each(web, parallel, lambda item: _with_size(item, web), items)


def clean(root: pathlib.Path, items: list[Item]) -> None:
    """Removes parts beside files that are whole, as a kill in the last moment leaves them."""
    for item in items:
        if item.standing is Standing.DONE:
            remove_leftovers(root / item.file.path)


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The nearest folder at or above a path that exists."""
    while not path.exists():
        path = path.parent
    return path


def free_space(root: pathlib.Path) -> int:
    """Bytes free where a folder is or will be."""
    return shutil.disk_usage(_existing(root)).free


def check_space(root: pathlib.Path, items: list[Item], less: str = ASK_FOR_LESS) -> None:
    """Compares what is missing with what is free, disk by disk: a folder may be a link.

    Args:
        root: folder of the files.
        items: the files.
        less: what a user may do beside freeing space.

    Raises:
        UserError: it does not fit; gives both numbers.
    """
    needed: collections.Counter[int] = collections.Counter()
    where: dict[int, pathlib.Path] = {}
    for item in items:
        folder = _existing((root / item.file.path).parent)
        device = folder.stat().st_dev
        needed[device] += 0 if item.failure else item.missing
        where.setdefault(device, folder)
    for device, folder in where.items():
        free = shutil.disk_usage(folder).free
        if needed[device] > free:
            raise UserError(
                f"{folder} has {format_bytes(free)} free, and {format_bytes(needed[device])} "
                f"({needed[device]:,} bytes) are still to fetch; free some space{less}"
            )
