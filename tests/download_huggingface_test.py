"""The list of the Hugging Face copy."""

import json

import pytest
from download_server import CORE_TARS, MINI_TARS, Fault, add_huggingface, serving, sha256

from ilias_jax.download import huggingface
from ilias_jax.download.retry import Patience
from ilias_jax.download.web import Web
from ilias_jax.errors import UserError

LIST = f"/api/datasets/{huggingface.DATASET}/tree/main?recursive=true"
LFS = {"oid": "a" * 64, "size": 5}


@pytest.fixture
def server():
    with serving() as server:
        yield server


def listing(server):
    with Web(Patience(retries=0), lambda line: None) as web:
        return huggingface.list_files(web, server.url)


def test_both_pages_are_read(server):
    data = add_huggingface(server)
    files = listing(server)
    assert [file.path for file in files] == [*CORE_TARS, *MINI_TARS]
    for file in files:
        assert file.sha256 == sha256(data[file.path]) and file.size == len(data[file.path])
        assert file.url == f"{server.url}/datasets/vrg-prague/ilias/resolve/main/{file.path}"
    assert [file.path for file in huggingface.core_tars(files)] == list(CORE_TARS)
    assert [file.path for file in huggingface.distractor_tars(files)] == list(MINI_TARS)
    assert not huggingface.has_texts(files)


def only(server, *rows):
    server.files[LIST] = json.dumps(rows).encode()


@pytest.mark.parametrize(
    "path", ["../../x.tar", "/etc/ilias-core-a.tar", "a/../ilias-core-a.tar", "a\\..\\b", "a\nb"]
)
def test_a_path_that_leads_elsewhere_is_refused(server, path):
    good = {"type": "file", "path": "ilias-core-a.tar", "size": 5, "lfs": LFS}
    only(server, good, {"type": "file", "path": path, "size": 5, "lfs": LFS})
    with pytest.raises(UserError, match=r"vrg-prague/ilias, entry 1: .* leads out of the folder"):
        listing(server)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("ilias-core-a.tar", "no entry with a path"),
        ({"path": 3}, "no entry with a path"),
        ({"path": "ilias-core-a.tar", "size": 5}, "has no sha256"),
        ({"path": "ilias-core-a.tar", "size": 5, "lfs": {"oid": "A" * 64}}, "has no sha256"),
        ({"path": "ilias-core-a.tar", "size": "5", "lfs": LFS}, "has no size"),
        ({"path": "ilias-core-a.tar", "size": -5, "lfs": LFS}, "has no size"),
    ],
)
def test_entries_that_say_too_little(server, row, words):
    only(server, row)
    with pytest.raises(UserError, match=words):
        listing(server)


def test_two_files_of_one_name_are_refused(server):
    row = {"type": "file", "path": "ilias-core-a.tar", "size": 5, "lfs": LFS}
    only(server, row, {**row, "path": "old/ilias-core-a.tar"})
    with pytest.raises(UserError, match="a second file of the name"):
        listing(server)


@pytest.mark.parametrize(
    ("body", "words"), [(b"<html>", "gave no JSON"), (b'{"error": "x"}', "gave no list")]
)
def test_answers_of_another_kind(server, body, words):
    server.files[LIST] = body
    with pytest.raises(UserError, match=words):
        listing(server)


def test_a_list_without_end_ends(server):
    server.always[LIST] = Fault(body=b"[]", headers=(("Link", f'<{LIST}>; rel="next"'),))
    server.files[LIST] = b""
    with pytest.raises(UserError, match="goes on after 100 pages"):
        listing(server)


def test_a_copy_without_the_tars_says_so(server):
    only(server)
    with pytest.raises(UserError, match=r"lists no ilias-core-\*\.tar"):
        huggingface.core_tars(listing(server))
    with pytest.raises(UserError, match=r"lists no mini_ilias_yfcc100m-\*\.tar"):
        huggingface.distractor_tars([])
