"""A web server on this machine that misbehaves as told, and counts what it sends."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import json
import random
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator

from ilias_jax.dataset import catalogue
from ilias_jax.dataset.catalogue import Servers

CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong with one GET request of a path; the defaults are: nothing.

    Attributes:
        status: answer this instead of the file.
        headers: added to the answer.
        truncate_at: bytes of the body after which the connection is closed.
        stall_at: bytes of the body after which nothing more comes.
        close: close the connection without a word.
        reset: break the connection with a RST instead of closing it.
        body: other bytes than the file's, under the file's own ETag.
        ignore_range: answer 200 with the whole file.
        ignore_if_range: answer 206 though the file has changed.
        shift_range: answer a range from this many bytes before the one that was asked for.
        range_limit: most bytes of a range to send, with headers that say so.
        no_length: chunked, without Content-Length.
        extra: bytes of the body too many, with a length that says so.
    """

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    truncate_at: int | None = None
    stall_at: int | None = None
    close: bool = False
    reset: bool = False
    body: bytes | None = None
    ignore_range: bool = False
    ignore_if_range: bool = False
    shift_range: int = 0
    range_limit: int | None = None
    no_length: bool = False
    extra: bytes = b""


@dataclasses.dataclass
class Served:
    """One request: what was asked and how many bytes of body went out."""

    method: str
    path: str
    range: str | None
    if_range: str | None
    coding: str | None
    status: int = 0
    sent: int = 0


class Server:
    """Files by path, faults by path (one for each GET in turn), and a log."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.head_faults: dict[str, list[Fault]] = {}
        self.etags = True  # strong ones, from the content
        self.weak = False  # weak ones instead
        self.last_modified: str | None = None
        self.bytes_per_second = 0.0  # of each connection; 0 is without bound
        self.log: list[Served] = []
        self.stopping = threading.Event()
        self.url = ""

    def gets(self, path: str) -> list[Served]:
        return [row for row in self.log if row.method == "GET" and row.path == path]

    def sent(self, path: str) -> int:
        return sum(row.sent for row in self.gets(path))

    def etag(self, path: str) -> str | None:
        if not self.etags:
            return None
        return ("W/" if self.weak else "") + f'"{hashlib.sha1(self.files[path]).hexdigest()}"'


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    behind: Server

    def log_message(self, *unused: object) -> None:
        pass

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer("HEAD", self.behind.head_faults)

    def do_GET(self) -> None:  # noqa: N802
        self._answer("GET", self.behind.faults)

    def _answer(self, method: str, faults: dict[str, list[Fault]]) -> None:
        server = self.behind
        names = ("Range", "If-Range", "Accept-Encoding")
        row = Served(method, self.path, *(self.headers[name] for name in names))
        server.log.append(row)
        queue = faults.get(self.path, [])
        fault = queue.pop(0) if queue else Fault()
        if method == "GET" and self.path in server.always:
            fault = server.always[self.path]
        if fault.close or fault.reset:
            self._drop(fault.reset)
        elif fault.status:
            self._head(row, fault.status, [("Content-Length", "0"), *fault.headers])
        elif self.path not in server.files:
            self._head(row, 404, [("Content-Length", "0")])
        else:
            self._file(row, fault)

    def _drop(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def _head(self, row: Served, status: int, headers: list[tuple[str, str]]) -> None:
        row.status = status
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _file(self, row: Served, fault: Fault) -> None:
        whole = self.behind.files[self.path] if fault.body is None else fault.body
        headers = list(fault.headers)
        etag = self.behind.etag(self.path)
        if etag:
            headers.append(("ETag", etag))
        if self.behind.last_modified:
            headers.append(("Last-Modified", self.behind.last_modified))
        start, end, status = 0, len(whole), 200
        validators = (None, etag, self.behind.last_modified)
        same = row.if_range in validators or fault.ignore_if_range
        if row.range and same and not fault.ignore_range:
            start, status = int(row.range.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(whole):
                span = [("Content-Range", f"bytes */{len(whole)}"), ("Content-Length", "0")]
                self._head(row, 416, span)
                return
            start -= fault.shift_range
            end = len(whole) if fault.range_limit is None else start + fault.range_limit
            end = min(end, len(whole))
            headers.append(("Content-Range", f"bytes {start}-{end - 1}/{len(whole)}"))
        body = whole[start:end] + fault.extra
        if fault.no_length:
            headers.append(("Transfer-Encoding", "chunked"))
        else:
            headers.append(("Content-Length", str(len(body))))
        self._head(row, status, headers)
        if row.method == "GET":
            self._send(row, body, fault)

    def _send(self, row: Served, body: bytes, fault: Fault) -> None:
        for offset in range(0, len(body), CHUNK):
            piece = body[offset : offset + CHUNK]
            for limit in (fault.truncate_at, fault.stall_at):
                if limit is not None:
                    piece = piece[: max(0, limit - offset)]
            if piece:
                self.wfile.write(
                    b"%x\r\n%b\r\n" % (len(piece), piece) if fault.no_length else piece
                )
                row.sent += len(piece)
            if fault.truncate_at is not None and row.sent >= fault.truncate_at:
                self.close_connection = True
                return
            if fault.stall_at is not None and row.sent >= fault.stall_at:
                self.behind.stopping.wait(30)
                self.close_connection = True
                return
            if self.behind.bytes_per_second:
                time.sleep(CHUNK / self.behind.bytes_per_second)
        if fault.no_length:
            self.wfile.write(b"0\r\n\r\n")


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what half of the tests are about."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server without files."""
    behind = Server()
    handler = type("Handler", (_Handler,), {"behind": behind})
    with _Quiet(("127.0.0.1", 0), handler) as listener:
        behind.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield behind
        finally:
            behind.stopping.set()
            listener.shutdown()
            thread.join()


def noise(seed: str, size: int) -> bytes:
    """Bytes that no compression and no accident makes equal."""
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


NUM_TARS = 6
ADAPTER = "vit_large_patch16_siglip_384.webli"
TAXONOMY = b'{"product": {}}\n'
MINI_TARS = tuple(f"mini_ilias_yfcc100m-{number:06d}.tar" for number in range(3))
CORE_TARS = ("ilias-core-db-000000.tar", "ilias-core-queries-img-000000.tar")


def add_official(server: Server, size: int = 50_000) -> dict[str, bytes]:
    """Puts a small official server and its taxonomy on; returns the files by local path."""
    local = {f"image_ids/{name}": noise(name, 900) for name in catalogue.ID_FILES}
    packed = gzip.compress(noise("ids", 5000), mtime=0)
    local["image_ids/distractor_ids.txt.gz"] = packed
    tars = {"ilias_core.tar": noise("core", size)}
    for number in range(NUM_TARS):
        name = f"yfcc100m/yfcc100m_{number:04d}.tar"
        tars[name] = noise(name, size + number)
    adapter = {f"lin_adapt_layers/{ADAPTER}.pth": noise("adapter", 3000)}
    for name, data in {**local, **tars, **adapter}.items():
        server.files[f"/ilias_data/{name}"] = data
    lines = [f"{sha256(data)}  {catalogue.BASE_URL}/{name}\n" for name, data in tars.items()]
    server.files["/ilias_data/checksums.txt"] = "".join(lines).encode()
    server.files["/taxonomy.json"] = TAXONOMY
    return {**local, **tars, **adapter, "misc/taxonomy.json": TAXONOMY}


def add_huggingface(server: Server, size: int = 30_000) -> dict[str, bytes]:
    """Puts a small Hugging Face on: a list of two pages, redirects to the data."""
    dataset = catalogue.DATASET
    files = {name: noise(name, size) for name in (*CORE_TARS, *MINI_TARS)}
    rows = [
        {"type": "file", "path": ".gitattributes", "size": 7, "oid": "0" * 40},
        {"type": "directory", "path": "data", "size": 0, "oid": "0" * 40},
    ]
    for name, data in files.items():
        lfs = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
        row = {"type": "file", "path": name, "size": len(data), "oid": "1" * 40, "lfs": lfs}
        rows.append(row)
        server.files[f"/cdn/{name}"] = data
        there = Fault(status=302, headers=(("Location", f"/cdn/{name}"),))
        server.always[f"/datasets/{dataset}/resolve/main/{name}"] = there
    first = f"/api/datasets/{dataset}/tree/main?recursive=true"
    second = first + "&cursor=2"
    link = (("Link", f'<{server.url}{second}>; rel="next"'),)
    server.always[first] = Fault(body=json.dumps(rows[:4]).encode(), headers=link)
    server.files[first] = server.files[second] = b""
    server.always[second] = Fault(body=json.dumps(rows[4:]).encode())
    return files


def servers(server: Server) -> Servers:
    """The addresses of the above."""
    base = server.url
    assert urllib.parse.urlsplit(base).hostname == "127.0.0.1"
    return Servers(f"{base}/ilias_data", base, f"{base}/taxonomy.json")
