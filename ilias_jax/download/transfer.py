"""Fetches one file: resumes what is there, verifies what has come, and puts it in place."""

import gzip
import pathlib
import re
import zlib
from collections.abc import Callable

import requests

from ilias_jax.download.answers import content_length
from ilias_jax.download.files import RemoteFile
from ilias_jax.download.part import Origin, Part
from ilias_jax.download.retry import FinalError, TemporaryError
from ilias_jax.download.state import Record, Records
from ilias_jax.download.web import Web

_CHUNK = 1 << 20  # bytes
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def gzip_fault(path: pathlib.Path) -> str | None:
    """What is wrong with a gzip file, None if it is whole; decompresses all of it."""
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f"it is no whole gzip file ({error})"
    return None


class Transfer:
    """One file on its way.

    Args:
        root: the file's path is below it.
        file: what to fetch.
        web: how.
        records: receives the record of the whole file.
        advance: is told how many bytes have come; a negative number when bytes are dropped.
    """

    def __init__(
        self,
        root: pathlib.Path,
        file: RemoteFile,
        web: Web,
        records: Records,
        advance: Callable[[int], None],
    ) -> None:
        self._file, self._web, self._records, self._advance = file, web, records, advance
        self._part = Part(root / file.path, file.url, file.sha256)
        self._furthest = 0
        self._wrong = 0

    def run(self) -> Record:
        """Fetches, verifies and records the file.

        Raises:
            FinalError: it cannot be had, or is wrong twice.
            StoppedError: the run was stopped; the part stays.
            UserError: the disk below does not take it.
        """
        attempts = self._web.attempts(self._file.path)
        self._part.open()
        self._furthest = self._part.length
        try:
            while True:
                try:
                    self._fetch_rest()
                    self._verify()
                    break
                except TemporaryError as error:
                    # Only bytes that were never here before count, or a server that always breaks
                    # at the same place would be asked forever.
                    if self._part.length > self._furthest:
                        self._furthest = self._part.length
                        attempts.progressed()
                    attempts.failed(error)
            self._part.finish()
        finally:
            self._part.close()
        file = self._file
        return self._records.put(file.path, self._part.digest(), bool(file.sha256), file.url)

    def _restart(self, origin: Origin | None) -> None:
        self._advance(-self._part.length)
        self._part.restart(origin)

    def _fetch_rest(self) -> None:
        """Adds what is missing, as far as the connection holds."""
        origin = self._part.origin
        if origin is not None and origin.size == self._part.length:
            return
        headers = {}
        if origin is not None and self._part.length:
            headers["Range"] = f"bytes={self._part.length}-"
            if origin.url == self._file.url and (validator := origin.validator()):
                headers["If-Range"] = validator
        with self._web.request("GET", self._file.url, headers) as response:
            self._begin(response, headers)
            for chunk in self._web.chunks(response):
                self._part.append(chunk)
                self._advance(len(chunk))
        self._check_length()

    def _begin(self, response: requests.Response, headers: dict[str, str]) -> None:
        """Makes the part ready for the body of an answer.

        Raises:
            TemporaryError: the answer does not go on from the part, which was dropped.
            FinalError: the whole file could not be told from a cut one, or it comes compressed.
        """
        self._refuse_compressed(response)
        if response.status_code == 200:
            self._restart(self._origin_of(response))
            return
        if "Range" not in headers:
            raise FinalError(f"{response.url} answered {response.status_code} to a request of all")
        if response.status_code == 416 or not self._goes_on(response):
            self._restart(None)
            raise TemporaryError("it has changed on the server; from the start", wait=0)

    def _refuse_compressed(self, response: requests.Response) -> None:
        """A server may label a .gz file so; any other file would be stored compressed."""
        coding = response.headers.get("Content-Encoding", "identity")
        if coding != "identity" and not self._file.path.endswith(".gz"):
            raise FinalError(f"{response.url} comes with Content-Encoding {coding}, unasked")

    def _origin_of(self, response: requests.Response) -> Origin:
        size = content_length(response)
        if size is None:
            size = self._file.size
        if size is None and self._file.sha256 is None:
            raise FinalError(f"{response.url} has neither a length nor a sha256 to check it by")
        etag = response.headers.get("ETag")
        if etag is not None and not etag.startswith('"'):
            etag = None  # a weak one does not promise equal bytes
        return Origin(self._file.url, etag, response.headers.get("Last-Modified"), size)

    def _goes_on(self, response: requests.Response) -> bool:
        """Whether a 206 answer begins where the part ends, of the same version."""
        origin = self._part.origin
        assert origin is not None
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != self._part.length:
            return False
        if match[3] != "*" and origin.size is not None and int(match[3]) != origin.size:
            return False
        etag = response.headers.get("ETag")
        same_place = origin.url == self._file.url
        return not (same_place and origin.etag and etag and etag != origin.etag)

    def _check_length(self) -> None:
        origin, length = self._part.origin, self._part.length
        assert origin is not None
        if origin.size is None or length == origin.size:
            return
        if length < origin.size:
            raise TemporaryError(f"cut off after {length:,} of {origin.size:,} bytes")
        self._restart(None)
        raise TemporaryError(f"{length:,} bytes came instead of {origin.size:,}; from the start")

    def _verify(self) -> None:
        """Compares the digest, or tests a gzip file that has none; drops what is wrong.

        Raises:
            TemporaryError: wrong for the first time; a clean transfer may mend it.
            FinalError: wrong again.
        """
        fault = self._fault()
        if fault is None:
            return
        self._wrong += 1
        self._restart(None)
        if self._wrong > 1:
            raise FinalError(f"{fault}, also after it was fetched again from the start")
        self._furthest = 0
        raise TemporaryError(f"{fault}; from the start", wait=0)

    def _fault(self) -> str | None:
        if self._file.sha256 is not None:
            found = self._part.digest()
            if found == self._file.sha256:
                return None
            return f"its sha256 is {found}, published is {self._file.sha256}"
        return gzip_fault(self._part.path) if self._file.path.endswith(".gz") else None
