"""One address to one verified file, over networks and disks that fail.

The bytes of an unfinished file lie in `NAME.part`, and `NAME.part.json` says to which version of
the file they belong. A file has its final name only when it is whole. The process may be killed
between any two writes: their order keeps bytes of one version from the validators of another.
"""

import contextlib
import dataclasses
import gzip
import json
import os
import pathlib
import random
import re
import shutil
import threading
import typing
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import filelock
import requests
import urllib3

from ilias_jax import files
from ilias_jax.errors import UserError
from ilias_jax.progress import Advance, format_bytes

STATE_FOLDER = ".download"
LARGEST_PARALLEL = 64
_CHUNK = 1 << 17  # bytes at most; a slow server's are handed on as they come
_LARGEST_LISTING = 1 << 26  # bytes; checksums.txt has about 130 kB
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# Without it servers may send files compressed, and then neither lengths nor ranges are the file's.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "ilias-jax"}
_REFUSALS = {401: "wants a login for", 403: "refuses", 404: "does not have", 410: "no longer has"}
_T = TypeVar("_T")
Say = Callable[[str], None]


class DownloadError(Exception):
    """A file cannot be had; others may."""


class StoppedError(Exception):
    """The client was stopped."""


class _TemporaryError(Exception):
    """It may work after `wait` seconds or, for None, after the usual wait."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    path: str  # below the root folder, with `/`
    url: str
    sha256: str | None = None  # published, in lower-case hex
    size: int | None = None  # published, in bytes


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often and how long to wait; times in seconds."""

    retries: int = 8  # failures in a row, without a new byte between, that are tried again
    first_wait: float = 1.0  # before the first retry; doubles from one to the next
    longest_wait: float = 60.0
    longest_retry_after: float = 900.0  # bound of what a server may ask for
    connect_timeout: float = 15.0
    read_timeout: float = 60.0  # for the next bytes to arrive

    def __post_init__(self) -> None:
        """Checks what the command line gives."""
        if self.retries < 0:
            raise UserError(f"retries {self.retries} must be 0 or more")
        if not self.read_timeout > 0:
            raise UserError(f"read_timeout {self.read_timeout} must be more than 0 seconds")

    def wait(self, failures: int, asked: float | None) -> float:
        """Seconds until the next attempt after so many failures; a server may have asked some."""
        if asked is not None:
            return min(asked, self.longest_retry_after)
        full = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        # Jitter, so that the files of one run do not all come back at the same moment.
        return full * random.uniform(0.5, 1.0)


@contextlib.contextmanager
def on_disk(path: pathlib.Path) -> Iterator[None]:
    """Turns failures of the disk into a UserError; they concern the whole run."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; mend that and run the same command again"
        ) from error


@contextlib.contextmanager
def exclusive(root: pathlib.Path, wait: Say | None = None) -> Iterator[None]:
    """Keeps other processes from downloading into the same folder, which is made if missing.

    Raises:
        UserError: another process downloads already and `wait` is None, which else is told so
            before this one waits; or the disk fails.
    """
    path = root / STATE_FOLDER / "lock"
    # A soft lock, which filelock would fall back to, outlives a killed process.
    lock = filelock.FileLock(path, thread_local=False, fallback_to_soft=False)
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as error:
            busy = f"another download is at work in {root}"
            if wait is None:
                raise UserError(f"{busy}; wait for it or end it") from error
            wait(f"{busy}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_fields(path: pathlib.Path, value: Any) -> None:
    """Writes a dataclass as JSON. What a kill leaves of it is no JSON, and is read as None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(value), indent=1) + "\n")


def read_fields(path: pathlib.Path, kind: type[_T]) -> _T | None:
    """A dataclass from JSON; None if the file is missing or damaged or has other fields."""
    hints = typing.get_type_hints(kind)
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.keys() != hints.keys():
        return None
    return kind(**value) if all(isinstance(value[key], hints[key]) for key in hints) else None


def gzip_fault(path: pathlib.Path) -> str | None:
    """What is wrong with a gzip file, None if it is whole; decompresses all of it."""
    try:
        with gzip.open(path) as file, open(os.devnull, "wb") as nowhere:
            shutil.copyfileobj(file, nowhere)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f"it is no whole gzip file ({error})"
    return None


def _existing(path: pathlib.Path) -> pathlib.Path:
    return path if path.exists() else _existing(path.parent)


def free_space(path: pathlib.Path) -> int:
    """Bytes free where a folder is or will be."""
    return shutil.disk_usage(_existing(path)).free


def check_space(missing: Iterable[tuple[pathlib.Path, int]], advice: str) -> None:
    """Raises UserError if the bytes to fetch of files do not fit, with advice beside freeing space.

    Disks are looked at one by one, because a folder may be a link.
    """
    needed: dict[int, tuple[pathlib.Path, int]] = {}
    for path, count in missing:
        folder = _existing(path.parent)
        first, total = needed.get(device := folder.stat().st_dev, (folder, 0))
        needed[device] = first, total + count
    for folder, total in needed.values():
        if total > (free := free_space(folder)):
            raise UserError(
                f"{folder} has {format_bytes(free)} free, and {format_bytes(total)} ({total:,} "
                f"bytes) are still to fetch; free some space, or {advice}"
            )


def is_web_address(url: str) -> bool:
    """Whether this is a complete http or https address."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def reason_of(error: BaseException) -> str:
    """The innermost cause in words: `Connection refused`, not the stack of wrappers."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, urllib3.exceptions.IncompleteRead):
        return "closed before the end"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _failure_of(error: requests.RequestException, url: str) -> Exception:
    host = urllib.parse.urlsplit(url).netloc
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY" in str(error):
        return DownloadError(f"the certificate of {host} is not trusted ({reason_of(error)})")
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return _TemporaryError(f"no answer from {host} ({reason_of(error)})")
    return DownloadError(f"{url} cannot be asked for ({error})")


def _check_status(response: requests.Response) -> None:
    """Raises _TemporaryError for 408, 425, 429 and 5xx, DownloadError for all but 200, 206, 416."""
    status = response.status_code
    if status in (200, 206, 416):
        return
    if status < 500 and status not in (408, 425, 429):
        what = _REFUSALS.get(status, "will not send")
        raise DownloadError(f"the server {what} {response.url} ({status})")
    try:
        asked = urllib3.util.Retry().get_retry_after(response.raw)
    except urllib3.exceptions.InvalidHeader:
        asked = None
    raise _TemporaryError(f"the server answered {status}", asked)


def _content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() else None


class Client(requests.Session):
    """Requests of several threads, repeated after temporary failures.

    `say` is called with lines for the user, from any thread.
    """

    def __init__(self, policy: RetryPolicy, say: Say = print) -> None:
        super().__init__()
        self.policy, self.say = policy, say
        self.stopped = threading.Event()
        self.headers.update(_HEADERS)
        self._open: set[requests.Response] = set()
        for scheme in ("http://", "https://"):
            self.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=LARGEST_PARALLEL))

    def get_redirect_target(self, response: requests.Response) -> str | None:
        """Follows redirects, but not from https to anything less."""
        target = super().get_redirect_target(response)
        if target is not None:
            address = urllib.parse.urljoin(response.url, target)
            downgraded = response.url.startswith("https:") and not address.startswith("https:")
            if downgraded or not is_web_address(address):
                response.close()
                raise DownloadError(f"{response.url} leads to {address[:120]!r}, which is not safe")
        return target

    def stop(self) -> None:
        """Makes all threads raise StoppedError, also those that wait for bytes."""
        self.stopped.set()
        for response in tuple(self._open):
            # One that has ended by itself has nothing left to shut.
            with contextlib.suppress(ValueError, RuntimeError, OSError):
                response.raw.shutdown()

    @contextlib.contextmanager
    def ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[requests.Response]:
        """Asks once; the response has status 200, 206 or 416 and its body is still to be read."""
        timeout = (self.policy.connect_timeout, self.policy.read_timeout)
        try:
            response = self.request(
                method, url, headers=headers, stream=True, timeout=timeout, allow_redirects=True
            )
        except requests.RequestException as error:
            raise _failure_of(error, url) from error
        self._open.add(response)
        try:
            with response:
                if self.stopped.is_set():
                    raise StoppedError
                _check_status(response)
                yield response
        finally:
            self._open.discard(response)

    def chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it was sent, piece by piece; urllib3 compares its length with the header."""
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                yield chunk
        except urllib3.exceptions.HTTPError as error:
            raise _TemporaryError(f"the connection broke ({reason_of(error)})") from error

    def insist(
        self, name: str, attempt: Callable[[], _T], progress: Callable[[], Any] = lambda: 0
    ) -> _T:
        """Repeats an attempt; counts failures anew when `progress` exceeds all earlier values.

        Raises:
            DownloadError: it failed too often, or for good.
            StoppedError: the client was stopped.
        """
        failures, furthest, retries = 0, progress(), self.policy.retries
        while True:
            try:
                return attempt()
            except _TemporaryError as error:
                if self.stopped.is_set():
                    raise StoppedError from error
                failures = 1 if progress() > furthest else failures + 1
                furthest = max(furthest, progress())
                if failures > retries:
                    times = "once" if failures == 1 else f"{failures} times in a row"
                    raise DownloadError(f"{error}; given up after it failed {times}") from error
                seconds = self.policy.wait(failures, error.wait)
                when = f"again in {seconds:,.0f} s" if seconds >= 0.5 else "again now"
                self.say(f"{name}: {error}; {when} (retry {failures} of {retries})")
                if self.stopped.wait(seconds):
                    raise StoppedError from error

    def size(self, file: RemoteFile) -> int | None:
        """Bytes of a file, as published or by a HEAD request; None if the server does not say.

        Raises:
            DownloadError: no answer, however often.
        """

        def attempt() -> int | None:
            with self.ask("HEAD", file.url) as response:
                return _content_length(response)

        try:
            return self.insist(file.path, attempt) if file.size is None else file.size
        except DownloadError as error:
            if isinstance(error.__cause__, _TemporaryError):
                raise
            return None  # some servers refuse HEAD alone; the GET that follows says what is wrong

    def read(self, url: str, name: str) -> tuple[bytes, str | None]:
        """The body of a short listing, and the address of its next page or None.

        Raises:
            UserError: it cannot be had or is larger than any listing.
        """

        def attempt() -> tuple[bytes, str | None]:
            body = b""
            with self.ask("GET", url) as response:
                for chunk in self.chunks(response):
                    body += chunk
                    if len(body) > _LARGEST_LISTING:
                        raise DownloadError(f"{url} has more than {_LARGEST_LISTING:,} bytes")
                following = response.links.get("next", {}).get("url")
                return body, following and urllib.parse.urljoin(response.url, following)

        try:
            return self.insist(name, attempt)
        except DownloadError as error:
            raise UserError(f"{name} cannot be had: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Origin:
    """The version of a file that a part belongs to."""

    url: str  # that was asked, before redirects
    etag: str | None  # a strong one
    last_modified: str | None  # as the server wrote it
    size: int | None  # of the whole file, in bytes


def _beside(target: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sync(path: pathlib.Path) -> None:
    """Waits until a file's bytes or a folder's names are on the disk for good."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def remove_part(target: pathlib.Path) -> None:
    """Removes the part of a file that is whole or of which nothing is there."""
    for path in reversed(_beside(target)):
        path.unlink(missing_ok=True)


def _resumable(target: pathlib.Path, file: RemoteFile) -> tuple[_Origin | None, int]:
    """The origin and the length of a part that a request can go on from.

    Without a validator of the same address only a published digest can tell whether the bytes
    before and after a break are of one file.
    """
    part, note = _beside(target)
    origin, length = read_fields(note, _Origin), _size(part)
    if origin is None or not length or (origin.size is not None and length > origin.size):
        return None, 0
    if not file.sha256 and (origin.url != file.url or not (origin.etag or origin.last_modified)):
        return None, 0
    return origin, length


def resumable(root: pathlib.Path, file: RemoteFile) -> int:
    """Bytes of a file on the disk that a request can go on from."""
    return _resumable(root / file.path, file)[1]


def fetch(
    client: Client, root: pathlib.Path, file: RemoteFile, advance: Advance = lambda count: None
) -> str:
    """Brings one file below a folder: resumes its part, verifies it, gives it its final name.

    `advance` is told how many bytes have come; a negative number when bytes are dropped.

    Returns:
        sha256 of the file, in lower-case hex.

    Raises:
        DownloadError: it cannot be had, or is wrong twice; what came is kept if it may be right.
        StoppedError: the client was stopped; the part stays.
        UserError: the disk does not take it.
    """
    transfer = _Transfer(client, root / file.path, file, advance)
    with on_disk(transfer.part):
        transfer.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = client.insist(file.path, transfer.attempt, transfer.progress)
            _sync(transfer.part)
            transfer.part.replace(transfer.target)
            _sync(transfer.target.parent)
            return found
        finally:
            if not _size(transfer.part):
                remove_part(transfer.target)


class _Transfer:
    """One file on its way; what is here of it is on the disk alone."""

    def __init__(
        self, client: Client, target: pathlib.Path, file: RemoteFile, advance: Advance
    ) -> None:
        self.target = target
        self.part, self._note = _beside(target)
        self._client, self._file, self._advance = client, file, advance
        self._wrong = 0  # times that the whole file was not the published one

    def progress(self) -> tuple[int, int]:
        """Grows with every byte that was never here before."""
        return self._wrong, _size(self.part)

    def attempt(self) -> str:
        """Adds what is missing, as far as the connection holds, and returns the whole's sha256."""
        origin, length = _resumable(self.target, self._file)
        if origin is None or origin.size != length:
            origin, length = self._fetch_rest(origin, length)
        if origin.size is not None and length < origin.size:
            raise _TemporaryError(f"cut off after {length:,} of {origin.size:,} bytes")
        found = files.sha256(self.part)
        if fault := self._fault(origin, length, found):
            self._wrong += 1
            self._restart(length)
            if self._wrong > 1:
                raise DownloadError(f"{fault}, also after it was fetched again from the start")
            raise _TemporaryError(f"{fault}; from the start", wait=0)
        return found

    def _fault(self, origin: _Origin, length: int, found: str) -> str | None:
        published = self._file.sha256
        if origin.size is not None and length > origin.size:
            return f"{length:,} bytes came instead of {origin.size:,}"
        if published is None:
            return gzip_fault(self.part) if self._file.path.endswith(".gz") else None
        return None if found == published else f"its sha256 is {found}, published is {published}"

    def _fetch_rest(self, origin: _Origin | None, length: int) -> tuple[_Origin, int]:
        """Adds the body of one answer; returns its origin and the length that is here then."""
        headers = {}
        if origin is not None:
            headers["Range"] = f"bytes={length}-"
            validator = origin.etag or origin.last_modified
            if origin.url == self._file.url and validator:
                headers["If-Range"] = validator
        with self._client.ask("GET", self._file.url, headers) as response:
            if not self._goes_on(response, origin, length):
                origin = self._origin_of(response)
                self._restart(length, origin)
            assert origin is not None
            with self.part.open("ab") as part:
                for chunk in self._client.chunks(response):
                    part.write(chunk)
                    self._advance(len(chunk))
        return origin, _size(self.part)

    def _restart(self, length: int, origin: _Origin | None = None) -> None:
        """Drops all bytes that are here; those to come are of `origin`."""
        self._advance(-length)
        self._note.unlink(missing_ok=True)
        self.part.write_bytes(b"")
        _sync(self.part)
        if origin is not None:
            write_fields(self._note, origin)

    def _goes_on(self, response: requests.Response, origin: _Origin | None, length: int) -> bool:
        """Whether the body goes on where the part ends; False if it is the whole file."""
        coding = response.headers.get("Content-Encoding", "identity")
        # A server may label a .gz file so; any other file would be stored compressed.
        if coding != "identity" and not self._file.path.endswith(".gz"):
            raise DownloadError(f"{response.url} comes with Content-Encoding {coding}, unasked")
        if response.status_code == 200:
            return False
        if origin is None:
            status = response.status_code
            raise DownloadError(f"{response.url} answered {status} to a request of all")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        etag = response.headers.get("ETag") if origin.url == self._file.url else None
        if (
            match is None  # as with status 416
            or int(match[1]) != length
            or (origin.size is not None and match[3] not in ("*", str(origin.size)))
            or (origin.etag and etag and etag != origin.etag)
        ):
            self._restart(length)
            raise _TemporaryError("it has changed on the server; from the start", wait=0)
        return True

    def _origin_of(self, response: requests.Response) -> _Origin:
        length, etag = _content_length(response), response.headers.get("ETag")
        size = self._file.size if length is None else length
        if size is None and self._file.sha256 is None:
            raise DownloadError(f"{response.url} has neither a length nor a sha256 to check it by")
        if etag is not None and not etag.startswith('"'):
            etag = None  # a weak one does not promise equal bytes
        return _Origin(self._file.url, etag, response.headers.get("Last-Modified"), size)
