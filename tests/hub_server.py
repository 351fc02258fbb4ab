"""A small Hugging Face hub on this machine: files by repository, gates, and a log of requests."""

import contextlib
import dataclasses
import http.server
import re
import threading
from collections.abc import Iterator

from download_server import sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PATH = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    name: str
    range: str | None
    token: str | None


class Hub:
    """What is there and how it behaves.

    Attributes:
        files: by "owner/name/path in the repository".
        etags: of files whose own is not their sha256.
        gated: repositories that want `token`.
        cuts: bytes after which the next GETs break off, one each.
        status: answer everything with it, 0 for the usual.
        headers: of these answers.
        log: all requests.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.gated: set[str] = set()
        self.token = "hf_right"
        self.cuts: list[int] = []
        self.status = 0
        self.headers: dict[str, str] = {}
        self.log: list[Asked] = []
        self.url = ""

    def gets(self) -> list[Asked]:
        return [row for row in self.log if row.method == "GET"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: Hub

    def log_message(self, *unused: object) -> None:
        pass

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer()

    def do_GET(self) -> None:  # noqa: N802
        self._answer()

    def _answer(self) -> None:
        hub, match = self.behind, _PATH.fullmatch(self.path)
        assert match is not None, self.path
        repository, revision, name = match.groups()
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        hub.log.append(Asked(self.command, f"{repository}/{name}", self.headers["Range"], token))
        known = any(key.startswith(f"{repository}/") for key in hub.files)
        if hub.status:
            self._head(hub.status, hub.headers)
        elif not known:
            self._head(401, {"X-Error-Code": "RepoNotFound"})
        elif repository in hub.gated and token != hub.token:
            self._head(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", COMMIT):
            self._head(404, {"X-Error-Code": "RevisionNotFound"})
        elif f"{repository}/{name}" not in hub.files:
            self._head(404, {"X-Error-Code": "EntryNotFound"})
        else:
            data = hub.files[f"{repository}/{name}"]
            self._file(data, hub.etags.get(f"{repository}/{name}", sha256(data)))

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _file(self, data: bytes, etag: str) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        body = data[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._head(206 if start else 200, headers | {"Content-Length": str(len(body))})
        if self.command == "GET":
            cut = self.behind.cuts.pop(0) if self.behind.cuts else None
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None


@contextlib.contextmanager
def serving_hub() -> Iterator[Hub]:
    """A running hub without files."""
    behind = Hub()
    handler = type("Handler", (_Handler,), {"behind": behind})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        listener.daemon_threads = True
        listener.block_on_close = False
        behind.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield behind
        finally:
            listener.shutdown()
            thread.join()
