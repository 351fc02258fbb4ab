"""HTTP: a session a thread, timeouts always, and every failure as temporary or final."""

import contextlib
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Self, TypeVar

import requests
import urllib3

from ilias_jax.download.answers import check_status, content_length, failure_of, reason_of
from ilias_jax.download.files import RemoteFile, is_web_address
from ilias_jax.download.retry import (
    Attempts,
    FinalError,
    GivenUpError,
    Patience,
    Say,
    StoppedError,
    TemporaryError,
)
from ilias_jax.errors import UserError

_CHUNK = 1 << 17  # bytes at most; a slow server's are handed on as they come
_LARGEST_LISTING = 1 << 26  # bytes; checksums.txt has about 130 kB
# Without it servers may send files compressed, and then neither lengths nor ranges are the file's.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "ilias-jax"}


_T = TypeVar("_T")


class _Session(requests.Session):
    """Follows redirects, but not from https to anything less."""

    def get_redirect_target(self, response: requests.Response) -> str | None:
        target = super().get_redirect_target(response)
        if target is not None:
            address = urllib.parse.urljoin(response.url, target)
            if not is_web_address(address) or (
                response.url.startswith("https:") and not address.startswith("https:")
            ):
                response.close()
                raise FinalError(f"{response.url} leads to {address[:120]!r}, which is not safe")
        return target


class Web:
    """Requests from several threads."""

    def __init__(self, patience: Patience, say: Say = print) -> None:
        self.patience = patience
        self.say = say
        self.stop = threading.Event()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._open: set[requests.Response] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *unused: object) -> None:
        """Closes all connections."""
        for session in self._sessions:
            session.close()

    def halt(self) -> None:
        """Makes all threads stop, also those that wait for bytes."""
        self.stop.set()
        with self._lock:
            for response in self._open:
                # One that has ended by itself has nothing left to shut.
                with contextlib.suppress(ValueError, RuntimeError, OSError):
                    response.raw.shutdown()

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = _Session()
            with self._lock:
                self._sessions.append(self._local.session)
        session: requests.Session = self._local.session
        return session

    def attempts(self, name: str) -> Attempts:
        """A counter of failures for one thing."""
        return Attempts(name, self.patience, self.stop, self.say)

    @contextlib.contextmanager
    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[requests.Response]:
        """Asks once; the body is still to be read.

        Args:
            method: GET or HEAD.
            url: address.
            headers: added to the usual ones.

        Yields:
            A response of status 200, 206 or 416.

        Raises:
            TemporaryError: no connection, a timeout, status 408, 425, 429 or 5xx.
            FinalError: any other status, an address that is not http or https, or a bad
                certificate.
        """
        timeout = (self.patience.connect_timeout, self.patience.read_timeout)
        try:
            response = self._session().request(
                method,
                url,
                headers={**_HEADERS, **(headers or {})},
                stream=True,
                timeout=timeout,
                allow_redirects=True,
            )
        except requests.RequestException as error:
            raise failure_of(error, url) from error
        with self._lock:
            self._open.add(response)
        try:
            with response:
                check_status(response)
                yield response
        finally:
            with self._lock:
                self._open.discard(response)

    def chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it was sent, piece by piece; urllib3 compares its length with the header's.

        Raises:
            TemporaryError: the connection broke or nothing came for `read_timeout` seconds.
            StoppedError: the run was stopped.
        """
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                if self.stop.is_set():
                    raise StoppedError
                yield chunk
        except urllib3.exceptions.HTTPError as error:
            raise TemporaryError(f"the connection broke ({reason_of(error)})") from error

    def size(self, file: RemoteFile) -> int | None:
        """Bytes of a file by a HEAD request; None if the server does not say.

        Raises:
            GivenUpError: no answer, however often.
        """

        def ask() -> int | None:
            with self.request("HEAD", file.url) as response:
                return content_length(response)

        try:
            return self._insist(file.path, ask)
        except GivenUpError:
            raise
        except FinalError:
            return None  # some servers refuse HEAD alone; the GET that follows says what is wrong

    def read(self, url: str, name: str) -> tuple[bytes, str | None]:
        """Fetches a short listing into memory.

        Args:
            url: address.
            name: of the listing in messages.

        Returns:
            The body, and the address of the next page or None.

        Raises:
            UserError: it cannot be had or is larger than any listing.
        """

        def ask() -> tuple[bytes, str | None]:
            with self.request("GET", url) as response:
                body = self._body(response)
                following = response.links.get("next", {}).get("url")
                return body, following and urllib.parse.urljoin(response.url, following)

        try:
            return self._insist(name, ask)
        except FinalError as error:
            raise UserError(f"{name} cannot be had: {error}") from error

    def _body(self, response: requests.Response) -> bytes:
        pieces, length = [], 0
        for chunk in self.chunks(response):
            pieces.append(chunk)
            length += len(chunk)
            if length > _LARGEST_LISTING:
                raise FinalError(f"{response.url} has more than {_LARGEST_LISTING:,} bytes")
        return b"".join(pieces)

    def _insist(self, name: str, ask: Callable[[], _T]) -> _T:
        attempts = self.attempts(name)
        while True:
            try:
                return ask()
            except TemporaryError as error:
                attempts.failed(error)
