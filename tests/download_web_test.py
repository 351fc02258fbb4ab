"""Requests: messages of failures, listings, sizes."""

import socket

import pytest
from download_server import Fault, serving

from ilias_jax.download import web as web_module
from ilias_jax.download.files import RemoteFile, is_safe_name
from ilias_jax.download.retry import FinalError, GivenUpError, Patience, TemporaryError
from ilias_jax.download.web import Web
from ilias_jax.errors import UserError

QUICK = Patience(retries=1, first_wait=0.001, longest_wait=0.01)


@pytest.fixture
def server():
    with serving() as server:
        server.files["/list"] = b"some lines\n"
        yield server


@pytest.fixture
def web():
    said = []
    with Web(QUICK, said.append) as web:
        yield web


def _closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_listing_is_read(server, web):
    assert web.read(server.url + "/list", "list") == (b"some lines\n", None)


def test_a_listing_that_is_cut_is_read_again(server, web):
    server.faults["/list"] = [Fault(truncate_at=4)]
    assert web.read(server.url + "/list", "list")[0] == b"some lines\n"


def test_nobody_listens(web):
    port = _closed_port()
    with pytest.raises(UserError) as caught:
        web.read(f"http://127.0.0.1:{port}/list", "checksums.txt")
    assert str(caught.value) == (
        f"checksums.txt cannot be had: no answer from 127.0.0.1:{port} (Connection refused); "
        "given up after it failed 2 times in a row"
    )


def test_a_host_without_an_address(web, monkeypatch):
    def resolve(*unused, **unused_too):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with (
        pytest.raises(
            TemporaryError, match=r"no answer from no\.such\.host \(Name or service not known\)"
        ),
        web.request("GET", "http://no.such.host/"),
    ):
        pass


def test_a_missing_listing(server, web):
    with pytest.raises(UserError) as caught:
        web.read(server.url + "/other", "checksums.txt")
    assert str(caught.value) == (
        f"checksums.txt cannot be had: the server does not have {server.url}/other (404)"
    )


def test_a_listing_has_a_largest_size(server, web, monkeypatch):
    monkeypatch.setattr(web_module, "_LARGEST_LISTING", 5)
    with pytest.raises(UserError, match="has more than 5 bytes"):
        web.read(server.url + "/list", "list")


def test_other_schemes_are_no_addresses(web):
    with pytest.raises(FinalError, match="cannot be asked for"), web.request("GET", "file:///x"):
        pass


def test_https_does_not_lead_to_http():
    class Answer:
        url = "https://host/a"
        is_redirect = True
        headers = {"location": "http://host/b"}  # noqa: RUF012

        def close(self):
            pass

    with web_module._Session() as session, pytest.raises(FinalError, match="not safe"):
        session.get_redirect_target(Answer())


def test_sizes(server, web):
    file = RemoteFile("list", server.url + "/list")
    assert web.size(file) == 11
    server.head_faults["/list"] = [Fault(status=405, headers=()), Fault(status=503)]
    assert web.size(file) is None
    assert web.size(file) == 11
    server.head_faults["/list"] = [Fault(close=True), Fault(close=True)]
    with pytest.raises(GivenUpError, match="Remote end closed connection"):
        web.size(file)


def test_names_of_files():
    assert is_safe_name("yfcc100m_0001.tar") and is_safe_name("a+b-c.x")
    for name in ("", ".", "..", ".x", "a/b", "a\\b", "a b", "a\n", "ä", "-x", "x" * 201, "a%2fb"):
        assert not is_safe_name(name), name


def test_patience_is_checked():
    with pytest.raises(UserError, match="retries -1 must be 0 or more"):
        Patience(retries=-1)
    with pytest.raises(UserError, match=r"read_timeout 0\.0 must be more than 0 seconds"):
        Patience(read_timeout=0.0)
