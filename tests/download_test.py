"""One file over a server that fails in every way known to users of large downloads."""

import dataclasses
import datetime
import email.utils
import gzip
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest
import requests
from download_server import Fault, noise, serving, sha256

from ilias_jax import download
from ilias_jax.download import Client, DownloadError, RemoteFile, RetryPolicy, StoppedError
from ilias_jax.errors import UserError

PATH = "/data/a.tar"
SIZE = 600_000
DATA = noise("a", SIZE)
QUICK = RetryPolicy(retries=3, first_wait=0.001, longest_wait=0.01, read_timeout=20.0)


class Fetch:
    """One file of a test server, fetched into a folder, with what was said and counted."""

    def __init__(self, server, root, data=DATA, name="a.tar", published=True):
        self.server, self.root, self.data = server, root, data
        self.url_path = f"/data/{name}"
        server.files[self.url_path] = data
        digest = sha256(data) if published else None
        self.file = RemoteFile(f"yfcc100m/{name}", server.url + self.url_path, digest)
        self.target = root / "yfcc100m" / name
        self.part = self.target.with_name(name + ".part")
        self.said: list[str] = []
        self.counted = 0

    def __call__(self, policy=QUICK):
        def advance(count):
            self.counted += count

        with Client(policy, self.said.append) as client:
            return download.fetch(client, self.root, self.file, advance)

    def is_done(self):
        beside = [path.name for path in self.target.parent.iterdir()]
        return self.target.read_bytes() == self.data and beside == [self.target.name]


@pytest.fixture
def fetch(tmp_path):
    with serving() as server:
        yield Fetch(server, tmp_path)


def ranges(fetch):
    return [row.range for row in fetch.server.gets(fetch.url_path)]


def broken_at(fetch, length, **fault):
    """Leaves a part of `length` bytes behind, as a killed process does."""
    fetch.server.faults[fetch.url_path] = [Fault(truncate_at=length, **fault)]
    with pytest.raises(DownloadError):
        fetch(dataclasses.replace(QUICK, retries=0))
    assert fetch.part.stat().st_size == length
    fetch.server.log.clear()
    fetch.counted = 0


def test_a_whole_file_is_put_in_place(fetch):
    assert fetch() == sha256(DATA)
    assert fetch.is_done()
    assert fetch.counted == SIZE and fetch.said == []
    # A body that comes compressed has neither the file's length nor its ranges.
    assert [row.coding for row in fetch.server.gets(PATH)] == ["identity"]


def test_a_cut_body_is_resumed_where_it_broke(fetch):
    fetch.server.faults[PATH] = [Fault(truncate_at=250_000), Fault(truncate_at=100_000)]
    fetch()
    assert fetch.is_done()
    assert ranges(fetch) == [None, "bytes=250000-", "bytes=350000-"]
    assert fetch.server.sent(PATH) == SIZE  # not a byte twice
    assert fetch.counted == SIZE
    assert "the connection broke" in fetch.said[0] and "(retry 1 of 3)" in fetch.said[0]


def test_another_process_resumes_and_asks_for_the_same_version(fetch):
    broken_at(fetch, 250_000)
    fetch()
    (row,) = fetch.server.gets(PATH)
    assert row.range == "bytes=250000-" and row.if_range == fetch.server.etag(PATH)
    assert fetch.is_done() and fetch.counted == SIZE - 250_000


def test_last_modified_is_the_validator_where_the_tag_is_weak(fetch):
    fetch.server.weak = True
    fetch.server.last_modified = "Wed, 01 Jan 2025 00:00:00 GMT"
    broken_at(fetch, 250_000)
    fetch()
    assert fetch.server.gets(PATH)[0].if_range == "Wed, 01 Jan 2025 00:00:00 GMT"
    assert fetch.is_done() and fetch.server.sent(PATH) == SIZE - 250_000


def test_a_stall_is_noticed_and_resumed(fetch):
    fetch.server.faults[PATH] = [Fault(stall_at=300_000)]
    fetch(dataclasses.replace(QUICK, read_timeout=1.0))
    assert fetch.is_done()
    assert fetch.server.sent(PATH) == SIZE
    assert "timed out" in fetch.said[0]


@pytest.mark.parametrize("fault", [Fault(close=True), Fault(reset=True), Fault(status=503)])
def test_what_goes_away_is_tried_again(fetch, fault):
    fetch.server.faults[PATH] = [fault, fault, fault]
    fetch()
    assert fetch.is_done() and len(fetch.said) == 3


def test_a_server_that_stays_away_is_given_up(fetch):
    fetch.server.always[PATH] = Fault(status=503)
    with pytest.raises(DownloadError) as caught:
        fetch()
    assert str(caught.value) == "the server answered 503; given up after it failed 4 times in a row"
    assert len(fetch.server.gets(PATH)) == 4
    assert not fetch.target.exists() and not fetch.part.exists()


def test_new_bytes_reset_the_count_of_failures(fetch):
    fetch.server.faults[PATH] = [Fault(truncate_at=50_000) for _ in range(10)]
    fetch()  # ten breaks, three retries in a row allowed
    assert fetch.is_done() and fetch.server.sent(PATH) == SIZE


def test_bytes_that_were_here_before_do_not_reset_it(fetch):
    """A server without ranges that always breaks would be asked forever."""
    fetch.server.always[PATH] = Fault(ignore_range=True, truncate_at=250_000)
    with pytest.raises(DownloadError, match="failed 4 times in a row"):
        fetch()
    assert len(fetch.server.gets(PATH)) == 4


def test_the_server_says_how_long_to_wait(fetch):
    fetch.server.faults[PATH] = [Fault(status=429, headers=(("Retry-After", "1"),))]
    fetch()
    assert fetch.said == ["yfcc100m/a.tar: the server answered 429; again in 1 s (retry 1 of 3)"]


def test_no_server_makes_it_wait_for_a_day(fetch):
    fetch.server.faults[PATH] = [Fault(status=503, headers=(("Retry-After", "86400"),))]
    fetch(dataclasses.replace(QUICK, longest_retry_after=0.01))
    assert fetch.is_done()


def test_a_server_without_ranges_starts_from_the_beginning(fetch):
    broken_at(fetch, 250_000)
    fetch.server.always[PATH] = Fault(ignore_range=True)
    fetch()
    assert fetch.is_done() and fetch.server.sent(PATH) == SIZE
    assert fetch.counted == SIZE - 250_000  # the progress shown still ends at the total


def test_a_file_that_changed_is_not_patched_together(fetch):
    broken_at(fetch, 250_000)
    new = noise("b", SIZE)
    fetch.server.files[PATH] = fetch.data = new
    fetch.file = dataclasses.replace(fetch.file, sha256=sha256(new))
    fetch()
    assert fetch.is_done() and [row.status for row in fetch.server.gets(PATH)] == [200]


def test_nor_by_a_server_that_ignores_if_range(fetch):
    broken_at(fetch, 250_000)
    fetch.server.files[PATH] = fetch.data = noise("b", SIZE)
    fetch.server.faults[PATH] = [Fault(ignore_if_range=True)]
    # Without a published digest nothing but the tag tells the versions apart.
    fetch.file = dataclasses.replace(fetch.file, sha256=None)
    fetch()
    assert fetch.is_done() and ranges(fetch) == ["bytes=250000-", None]
    assert "changed on the server" in fetch.said[-1]


def test_a_range_that_begins_elsewhere_is_not_appended(tmp_path):
    with serving() as server:
        fetch = Fetch(server, tmp_path, published=False)
        broken_at(fetch, 250_000)
        server.faults[PATH] = [Fault(shift_range=1, range_limit=SIZE - 250_000)]  # the length fits
        fetch()
        assert fetch.is_done() and ranges(fetch) == ["bytes=250000-", None]


def test_a_server_that_sends_short_ranges(fetch):
    broken_at(fetch, 250_000)
    fetch.server.faults[PATH] = [Fault(range_limit=150_000), Fault(range_limit=150_000)]
    fetch(dataclasses.replace(QUICK, retries=1))
    assert fetch.is_done() and fetch.server.sent(PATH) == SIZE - 250_000
    assert "cut off after 400,000 of 600,000 bytes" in fetch.said[0]


def test_without_validators_the_published_digest_lets_it_resume(fetch):
    fetch.server.etags = False
    broken_at(fetch, 250_000)
    fetch()
    assert fetch.is_done() and fetch.server.sent(PATH) == SIZE - 250_000


def test_without_validators_and_digest_it_starts_anew(tmp_path):
    with serving() as server:
        fetch = Fetch(server, tmp_path, published=False)
        server.etags = False
        broken_at(fetch, 250_000)
        assert fetch() == sha256(DATA)
        assert fetch.is_done() and ranges(fetch) == [None]


def test_a_mirror_goes_on_where_another_stopped(fetch):
    broken_at(fetch, 250_000)
    fetch.server.files["/mirror/a.tar"] = DATA
    fetch.file = dataclasses.replace(fetch.file, url=fetch.server.url + "/mirror/a.tar")
    fetch()
    (row,) = fetch.server.gets("/mirror/a.tar")
    assert row.range == "bytes=250000-" and row.if_range is None and fetch.is_done()


def test_a_part_beyond_the_end_is_dropped(fetch):
    """416: the file has become shorter than what is here."""
    fetch.server.etags = False
    broken_at(fetch, 250_000)
    fetch.server.files[PATH] = fetch.data = noise("b", 100_000)
    fetch.file = dataclasses.replace(fetch.file, sha256=sha256(fetch.data))
    fetch()
    assert fetch.is_done()
    assert [row.status for row in fetch.server.gets(PATH)] == [416, 200]


def test_a_complete_part_is_verified_without_a_request(fetch):
    broken_at(fetch, 250_000)
    fetch.part.write_bytes(DATA)  # killed between the last byte and the rename
    fetch()
    assert fetch.is_done() and fetch.server.log == []


def test_a_damaged_part_is_found_by_its_digest(fetch):
    broken_at(fetch, 250_000)
    fetch.part.write_bytes(noise("else", 250_000))
    fetch()
    assert fetch.is_done() and ranges(fetch) == ["bytes=250000-", None]


def test_a_part_without_its_origin_is_not_trusted(tmp_path):
    with serving() as server:
        fetch = Fetch(server, tmp_path, published=False)
        broken_at(fetch, 250_000)
        for text in ("{", "[]", '{"url": 1}', '{"url":"u","etag":1,"last_modified":null,"size":1}'):
            fetch.part.write_bytes(noise("else", 250_000))
            fetch.part.with_name("a.tar.part.json").write_text(text)
            fetch()
            assert fetch.is_done() and ranges(fetch)[-1] is None
            fetch.target.unlink()


def test_wrong_bytes_once_are_fetched_again_from_the_start(fetch):
    fetch.server.faults[PATH] = [Fault(body=noise("wrong", SIZE))]
    fetch()
    assert fetch.is_done() and ranges(fetch) == [None, None]
    assert "its sha256 is" in fetch.said[0] and "from the start" in fetch.said[0]


def test_wrong_bytes_twice_are_final_and_leave_nothing(fetch):
    wrong = noise("wrong", SIZE)
    fetch.server.always[PATH] = Fault(body=wrong)
    with pytest.raises(DownloadError) as caught:
        fetch()
    assert str(caught.value) == (
        f"its sha256 is {sha256(wrong)}, published is {sha256(DATA)}, "
        "also after it was fetched again from the start"
    )
    assert len(fetch.server.gets(PATH)) == 2
    assert list(fetch.target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "does not have"), (403, "refuses"), (401, "wants a login"), (400, "will not send")],
)
def test_refusals_are_final_at_once(fetch, status, words):
    fetch.server.always[PATH] = Fault(status=status)
    with pytest.raises(DownloadError) as caught:
        fetch()
    assert words in str(caught.value) and fetch.file.url in str(caught.value)
    assert len(fetch.server.gets(PATH)) == 1


def test_redirects_are_followed_and_ranges_with_them(fetch):
    fetch.server.files["/cdn/a"] = DATA
    fetch.server.always[PATH] = Fault(status=302, headers=(("Location", "/cdn/a"),))
    fetch.server.faults["/cdn/a"] = [Fault(truncate_at=250_000)]
    fetch()
    assert fetch.is_done() and fetch.server.sent("/cdn/a") == SIZE


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher:x"])
def test_redirects_elsewhere_than_the_web_are_refused(fetch, place):
    fetch.server.always[PATH] = Fault(status=302, headers=(("Location", place),))
    with pytest.raises(DownloadError, match="not safe"):
        fetch()


def test_a_circle_of_redirects_ends(fetch):
    fetch.server.always[PATH] = Fault(status=302, headers=(("Location", PATH),))
    with pytest.raises(DownloadError, match="redirects"):
        fetch()


def test_a_body_that_comes_compressed_is_refused(fetch):
    fetch.server.always[PATH] = Fault(headers=(("Content-Encoding", "gzip"),))
    with pytest.raises(DownloadError, match="Content-Encoding gzip"):
        fetch()


def test_a_gz_file_labelled_so_is_stored_as_it_is(tmp_path):
    with serving() as server:
        packed = gzip.compress(noise("ids", 5000))
        fetch = Fetch(server, tmp_path, packed, "ids.txt.gz", published=False)
        server.always["/data/ids.txt.gz"] = Fault(headers=(("Content-Encoding", "x-gzip"),))
        fetch()
        assert fetch.is_done()


def test_a_gz_file_without_digest_is_decompressed(tmp_path):
    with serving() as server:
        packed = gzip.compress(noise("ids", 50_000))
        fetch = Fetch(server, tmp_path, packed, "ids.txt.gz", published=False)
        server.faults["/data/ids.txt.gz"] = [Fault(body=packed[:-9]), Fault(body=b"<html>")]
        with pytest.raises(DownloadError, match="no whole gzip file"):
            fetch()
        fetch()
        assert fetch.is_done()


def test_chunks_without_a_length_need_a_digest(tmp_path):
    with serving() as server:
        server.always[PATH] = Fault(no_length=True)
        Fetch(server, tmp_path)()
        with pytest.raises(DownloadError, match="neither a length nor a sha256"):
            Fetch(server, tmp_path / "other", published=False)()


def test_too_many_bytes_are_not_a_file(tmp_path):
    with serving() as server:
        fetch = Fetch(server, tmp_path, published=False)
        broken_at(fetch, 250_000)
        server.faults[PATH] = [Fault(extra=b"more")]
        fetch()
        assert fetch.is_done()
        assert "600,004 bytes came instead of 600,000" in fetch.said[-1]


def test_an_empty_file_is_a_file(tmp_path):
    with serving() as server:
        fetch = Fetch(server, tmp_path, b"")
        fetch()
        assert fetch.is_done()


def test_a_disk_that_does_not_take_it_ends_the_run(fetch):
    fetch.target.parent.mkdir(parents=True)
    fetch.part.mkdir()
    with pytest.raises(UserError, match=r"a\.tar\.part: Is a directory; mend that"):
        fetch()


def test_a_stop_keeps_the_part(fetch):
    with Client(QUICK, fetch.said.append) as client:

        def advance(count):
            fetch.counted += count
            if fetch.counted >= 100_000:
                raise StoppedError

        with pytest.raises(StoppedError):
            download.fetch(client, fetch.root, fetch.file, advance)
    assert not fetch.target.exists()
    held = fetch.part.stat().st_size
    fetch.server.log.clear()
    fetch()
    assert 100_000 <= held < SIZE and fetch.is_done() and fetch.server.sent(PATH) == SIZE - held


def test_a_stop_ends_waiting(fetch):
    fetch.server.always[PATH] = Fault(status=503, headers=(("Retry-After", "60"),))
    with Client(QUICK, fetch.said.append) as client:
        threading.Timer(0.2, client.stopped.set).start()
        with pytest.raises(StoppedError):
            download.fetch(client, fetch.root, fetch.file)


def restarted(fetch):
    """A part of the old version lies there, and the server has another one."""
    broken_at(fetch, 250_000)
    fetch.server.files[PATH] = fetch.data = noise("b", SIZE)
    fetch.file = dataclasses.replace(fetch.file, sha256=None)


class Kill(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["unlink", "write_bytes", "fsync", "write_text"])
def test_a_kill_while_starting_anew_mixes_no_versions(fetch, monkeypatch, step):
    restarted(fetch)

    def kill(*unused, **unused_too):
        raise Kill

    where = os if step == "fsync" else pathlib.Path
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(where, step, kill)
        fetch()
    # Either everything is still of the old version or nothing is there.
    assert download.resumable(fetch.root, fetch.file) in (0, 250_000)
    fetch()
    assert fetch.is_done()


def test_bytes_are_on_the_disk_before_their_final_name(fetch, monkeypatch):
    calls = []
    replace, fsync = pathlib.Path.replace, os.fsync
    monkeypatch.setattr(pathlib.Path, "replace", lambda *a: calls.append("rename") or replace(*a))
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    fetch()
    assert calls == ["fsync", "fsync", "rename", "fsync"]  # the first one of the empty part


def test_what_can_be_resumed(fetch):
    broken_at(fetch, 250_000)
    plain = dataclasses.replace(fetch.file, sha256=None)
    note = fetch.part.with_name("a.tar.part.json")
    origin = json.loads(note.read_text())

    def lengths(**changes):
        note.write_text(json.dumps({**origin, **changes}))
        return [download.resumable(fetch.root, file) for file in (fetch.file, plain)]

    assert lengths() == [250_000, 250_000]
    assert lengths(size=100_000) == [0, 0]
    assert lengths(url="http://mirror/a") == [250_000, 0]
    assert lengths(etag=None) == [250_000, 0]
    assert lengths(etag=None, last_modified="Wed, 01 Jan 2025 00:00:00 GMT") == [250_000, 250_000]


class Waits(threading.Event):
    """Writes down how long it was waited for."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return False


def waits(policy, errors):
    """Seconds between the attempts, of which all fail but the last; and what was said."""
    said: list[str] = []
    errors = list(errors)

    def attempt():
        if errors:
            raise errors.pop(0)

    with Client(policy, said.append) as client:
        client.stopped = Waits()
        client.insist("a.tar", attempt)
        return client.stopped.seconds, said


def test_waits_double_to_a_bound_with_jitter():
    errors = [download._TemporaryError("broke")] * 6
    seconds, said = waits(RetryPolicy(retries=6, longest_wait=8.0), errors)
    for wait, full in zip(seconds, [1, 2, 4, 8, 8, 8], strict=True):
        assert full / 2 <= wait <= full
    assert said[5].startswith("a.tar: broke; again in ") and said[5].endswith("(retry 6 of 6)")
    with pytest.raises(DownloadError, match="broke; given up after it failed once"):
        waits(RetryPolicy(retries=0), errors)


def test_the_servers_wish_is_bounded():
    errors = [download._TemporaryError("busy", wait) for wait in (20.0, 500.0)]
    assert waits(RetryPolicy(longest_retry_after=30.0), errors)[0] == [20.0, 30.0]


def test_the_policy_is_checked():
    with pytest.raises(UserError, match="retries -1 must be 0 or more"):
        RetryPolicy(retries=-1)
    with pytest.raises(UserError, match=r"read_timeout 0\.0 must be more than 0 seconds"):
        RetryPolicy(read_timeout=0.0)


def test_retry_after_in_both_forms(fetch):
    now = datetime.datetime.now(datetime.UTC)
    later = email.utils.format_datetime(now + datetime.timedelta(seconds=90), usegmt=True)

    def wait_of(text):
        fetch.server.faults[PATH] = [Fault(status=429, headers=(("Retry-After", text),))]
        with (
            Client(QUICK) as client,
            pytest.raises(download._TemporaryError) as caught,
            client.ask("GET", fetch.file.url),
        ):
            pass
        return caught.value.wait

    assert wait_of("7") == 7.0
    assert 80 < wait_of(later) <= 90
    assert wait_of("Wed, 01 Jan 2020 00:00:00 GMT") == 0.0
    assert wait_of("soon") is None


def test_the_innermost_cause_is_the_reason():
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as inner:
            raise RuntimeError("HTTPConnectionPool(...)") from inner
    except RuntimeError as outer:
        assert download.reason_of(outer) == "Connection refused"
    assert download.reason_of(ValueError("so it is")) == "so it is"
    assert download.reason_of(TimeoutError()) == "TimeoutError"


def test_a_bad_certificate_is_final_and_a_broken_handshake_is_not(monkeypatch):
    def kind(error):
        def fail(*unused, **unused_too):
            raise error

        with Client(QUICK) as client, monkeypatch.context() as patch:
            patch.setattr(client, "request", fail)
            with (
                pytest.raises((DownloadError, download._TemporaryError)) as caught,
                client.ask("GET", "https://host/x"),
            ):
                pass
        return type(caught.value)

    bad = requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")
    assert kind(bad) is DownloadError
    assert kind(requests.exceptions.SSLError("EOF in violation")) is download._TemporaryError
    assert kind(requests.ReadTimeout()) is download._TemporaryError
    assert kind(requests.TooManyRedirects()) is DownloadError


@pytest.fixture
def client():
    with Client(RetryPolicy(retries=1, first_wait=0.001), lambda line: None) as client:
        yield client


def test_a_listing_is_read_again_if_it_was_cut(fetch, client, monkeypatch):
    url = fetch.server.url + "/list"
    fetch.server.files["/list"] = b"some lines\n"
    fetch.server.faults["/list"] = [Fault(truncate_at=4)]
    assert client.read(url, "list") == (b"some lines\n", None)
    monkeypatch.setattr(download, "_LARGEST_LISTING", 5)
    with pytest.raises(UserError, match="has more than 5 bytes"):
        client.read(url, "list")
    with pytest.raises(UserError) as caught:
        client.read(url + "s", "checksums.txt")
    message = f"checksums.txt cannot be had: the server does not have {url}s (404)"
    assert str(caught.value) == message


def test_nobody_listens(client):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(UserError) as caught:
        client.read(f"http://127.0.0.1:{port}/list", "checksums.txt")
    assert str(caught.value) == (
        f"checksums.txt cannot be had: no answer from 127.0.0.1:{port} (Connection refused); "
        "given up after it failed 2 times in a row"
    )


def test_a_host_without_an_address(client, monkeypatch):
    def resolve(*unused, **unused_too):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(UserError, match=r"no answer from no\.such\.host \(Name or service not kn"):
        client.read("http://no.such.host/", "list")


def test_other_schemes_are_no_addresses(client):
    with pytest.raises(UserError, match="cannot be asked for"):
        client.read("file:///x", "list")


def test_https_does_not_lead_to_http(client):
    class Answer:
        url = "https://host/a"
        is_redirect = True
        headers = {"location": "http://host/b"}  # noqa: RUF012

        def close(self):
            pass

    with pytest.raises(DownloadError, match="not safe"):
        client.get_redirect_target(Answer())


def test_sizes(fetch, client):
    assert client.size(dataclasses.replace(fetch.file, size=3)) == 3
    fetch.server.head_faults[PATH] = [Fault(status=503)]
    assert client.size(fetch.file) == SIZE  # after another try
    fetch.server.head_faults[PATH] = [Fault(status=405)]
    assert client.size(fetch.file) is None
    fetch.server.head_faults[PATH] = [Fault(close=True)] * 2
    with pytest.raises(DownloadError, match="Remote end closed connection"):
        client.size(fetch.file)


@pytest.mark.parametrize(
    ("text", "length"), [("12", 12), ("0", 0), ("", None), ("-1", None), ("1e3", None), ("²", None)]
)
def test_lengths(text, length):
    response = requests.Response()
    response.headers["Content-Length"] = text
    assert download._content_length(response) == length


OTHER = """
import pathlib, sys
from ilias_jax import download
root = pathlib.Path(sys.argv[1])
with download.exclusive(root):
    print("locked", flush=True)
    sys.stdin.read()
    (root / "done").touch()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that downloads into the folder until its input ends."""
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        yield other
        other.kill()


def test_two_processes_do_not_write_into_one_folder(other, tmp_path):
    with pytest.raises(UserError) as caught, download.exclusive(tmp_path):
        pass
    assert str(caught.value) == (
        f"another download is at work in {tmp_path}; wait for it or end it"
    )
    other.kill()
    other.wait()
    with download.exclusive(tmp_path):  # a killed process leaves no lock
        pass


def test_a_second_process_may_wait_for_the_first(other, tmp_path):
    said: list[str] = []

    def wait(message: str) -> None:
        said.append(message)
        assert not (tmp_path / "done").exists()
        other.stdin.close()

    with download.exclusive(tmp_path, wait):
        assert (tmp_path / "done").exists()
    assert said == [f"another download is at work in {tmp_path}; waiting for it"]


def test_a_folder_that_cannot_be_locked_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    message = "lock: Not a directory; mend that and run"
    with pytest.raises(UserError, match=message), download.exclusive(tmp_path / "file"):
        pass
