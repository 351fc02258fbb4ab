"""Files of the Hugging Face hub: where they land, what is said if they cannot be had."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import huggingface_hub
import pytest
from download_server import noise, serving, sha256
from hub_server import COMMIT, Hub, serving_hub
from huggingface_hub import constants
from huggingface_hub.utils import _http

from ilias_jax.download import hub
from ilias_jax.download.files import RemoteFile
from ilias_jax.download.hub import Fetched, HubFile, fetch, parse_address
from ilias_jax.download.retry import FinalError

WEIGHTS = noise("hub weights", 300_000)
REPOSITORY, NAME = "timm/vit_tiny.x_1", "model.safetensors"
URL = f"https://huggingface.co/{REPOSITORY}/resolve/main/{NAME}"
PLACE = f"huggingface.co/{REPOSITORY}/resolve/main/{NAME}"
FILE = RemoteFile(PLACE, URL)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub in the place of the real one, and nobody logged in."""
    with serving_hub() as server:
        server.files[f"{REPOSITORY}/{NAME}"] = WEIGHTS
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)
        # Waits between attempts would be all that most of these tests do.
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        yield server


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    return tmp_path / "cache"


def failure(root: pathlib.Path, file: RemoteFile = FILE, less: str = "") -> str:
    with pytest.raises(FinalError) as error:
        fetch(root, file, less)
    assert not (root / file.path).exists()
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, HubFile(REPOSITORY, "main", NAME)),
        (
            "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/sub/x%20y.npz",
            HubFile("a/b", "refs/pr/1", "sub/x y.npz"),
        ),
        ("https://huggingface.co/datasets/a/b/resolve/main/x.tar", None),
        ("https://huggingface.co/a/b/blob/main/x.npz", None),
        ("https://huggingface.co/a/b/resolve/main/", None),
        ("https://huggingface.co.evil.org/a/b/resolve/main/x", None),
        ("http://huggingface.co/a/b/resolve/main/x", None),
        ("https://dl.fbaipublicfiles.com/dino/x.pth", None),
    ],
)
def test_addresses_on_the_hub_are_told_from_others(url, expected):
    assert parse_address(url) == expected


def test_a_file_lands_at_its_place_and_nothing_beside_it(server, root):
    assert fetch(root, FILE) == Fetched(sha256(WEIGHTS), stated=True)
    assert [path for path in root.rglob("*") if path.is_file()] == [root / PLACE]
    assert (root / PLACE).read_bytes() == WEIGHTS
    assert not (root / PLACE).is_symlink()  # into a cache that somebody may empty
    assert len(server.gets()) == 1 and server.gets()[0].token is None


def test_a_file_in_a_folder_of_the_repository(server, root):
    server.files[f"{REPOSITORY}/open_clip/model.bin"] = b"in a folder"
    url = f"https://huggingface.co/{REPOSITORY}/resolve/main/open_clip/model.bin"
    fetch(root, RemoteFile(url.removeprefix("https://"), url))
    assert (root / url.removeprefix("https://")).read_bytes() == b"in a folder"


def test_a_published_digest_is_compared(server, root):
    assert fetch(root, RemoteFile(PLACE, URL, sha256(WEIGHTS))).sha256 == sha256(WEIGHTS)
    (root / PLACE).unlink()
    message = failure(root, RemoteFile(PLACE, URL, sha256(b"other")))
    assert message == f"its sha256 is {sha256(WEIGHTS)}, published is {sha256(b'other')}"


def test_what_the_hub_states_is_compared(server, root):
    """The package would take any file of the right size."""
    server.etags[f"{REPOSITORY}/{NAME}"] = sha256(b"other")
    message = failure(root)
    assert (
        message
        == f"its sha256 is {sha256(WEIGHTS)}, and the hub states {sha256(b'other')}: run again"
    )


def test_a_small_file_has_no_such_digest(server, root):
    """The hub keeps it in git and states git's SHA-1."""
    server.etags[f"{REPOSITORY}/{NAME}"] = "0" * 40
    assert fetch(root, FILE) == Fetched(sha256(WEIGHTS), stated=False)


def test_a_transfer_that_breaks_is_resumed(server, root, monkeypatch):
    """By the package, which writes a file in pieces of 10 MB."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    server.cuts = [100_000, 50_000]
    fetch(root, FILE)
    assert (root / PLACE).read_bytes() == WEIGHTS
    assert [row.range for row in server.gets()] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_transfer_that_always_breaks_leaves_nothing_and_is_repeated(server, root):
    server.cuts = [100_000] + [0] * 20
    assert "no answer from the hub (" in failure(root)
    server.cuts = []
    fetch(root, FILE)
    assert (root / PLACE).read_bytes() == WEIGHTS


def test_a_whole_file_of_a_killed_run_is_used(server, root, monkeypatch):
    """It was killed before the file was put in its place."""

    def kill(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hub.state, "digest", kill)
        patch.setattr(hub.shutil, "rmtree", lambda *words, **options: None)
        with pytest.raises(KeyboardInterrupt):
            fetch(root, FILE)
    assert not (root / PLACE).exists()
    assert fetch(root, FILE) == Fetched(sha256(WEIGHTS), stated=True)
    assert len(server.gets()) == 1
    assert [path for path in root.rglob("*") if path.is_file()] == [root / PLACE]


def test_the_token_is_sent(server, root, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", server.token)
    server.gated = {REPOSITORY}
    fetch(root, FILE)
    assert {row.token for row in server.log} == {server.token}


def test_a_gated_file_without_a_token_says_how_to_get_one(server, root):
    server.gated = {REPOSITORY}
    assert failure(root) == (
        f"{REPOSITORY} is gated: ask for access on https://huggingface.co/{REPOSITORY} and set "
        "HF_TOKEN to a token of your account (https://huggingface.co/settings/tokens); curl needs "
        '-H "Authorization: Bearer $HF_TOKEN" then'
    )
    assert server.gets() == []


def test_a_gated_file_with_a_token_that_may_not_read_it(server, root, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    server.gated = {REPOSITORY}
    message = failure(root)
    assert message.startswith(f"{REPOSITORY} is gated, and the account of your token (HF_TOKEN, or")
    assert "hf_other" not in message


def test_what_is_not_on_the_hub_is_named(server, root):
    def at(repository: str, revision: str, name: str) -> str:
        url = f"https://huggingface.co/{repository}/resolve/{revision}/{name}"
        return failure(root, RemoteFile("x/y", url))

    found = at(REPOSITORY, "main", "none.npz")
    assert found == f"the repository {REPOSITORY} has no file none.npz"
    found = at(REPOSITORY, "v9", NAME)
    assert found == f"the repository {REPOSITORY} has no such revision"
    found = at("timm/none", "main", NAME)
    assert found.startswith("the hub has no repository timm/none, or it is private: then set HF_TO")


def test_a_token_that_is_none_is_named(server, root, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    server.status = 401
    server.headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
    assert failure(root).startswith("the hub does not take your token (HF_TOKEN, or that of")


def test_a_hub_that_is_down_is_named(server, root):
    server.status = 503
    assert failure(root) == "the hub answered 503"


def test_no_network_is_named(server, root, monkeypatch):
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert failure(root) == "no answer from the hub (Connection refused)"


def test_another_server_in_its_place_is_named(root, server, monkeypatch):
    """A mirror that is none, or a proxy's page."""
    with serving() as other:
        other.files[f"/{REPOSITORY}/resolve/main/{NAME}"] = b"<html>"
        template = other.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        message = failure(root)
    assert "missing the 'X-Repo-Commit' header" in message and "HF_ENDPOINT" in message


def test_a_disk_that_is_too_small_is_named_before_the_first_byte(server, root, monkeypatch):
    monkeypatch.setattr(hub.plan, "free_space", lambda folder: 1000)
    message = failure(root, less=", or go elsewhere")
    folder = (root / PLACE).parent
    assert message == (
        f"{folder} has 1.0 kB free, and the file has 300.0 kB; free some space, or go elsewhere"
    )
    assert server.gets() == []


def test_a_disk_that_gets_full_is_named(server, root, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub.state, "digest", full)
    assert failure(root) == "the disk is full (No space left on device)"


def test_a_folder_that_cannot_be_made_is_named(server, root):
    root.parent.mkdir(exist_ok=True)
    root.write_bytes(b"a file")
    with pytest.raises(FinalError, match=f"Not a directory: '{root}"):
        fetch(root, FILE)


CHILD = """
import json, pathlib, sys
from ilias_jax.download.files import RemoteFile
from ilias_jax.download.hub import fetch
from ilias_jax.download.retry import FinalError
url, place, root = sys.argv[1:]
try:
    print(json.dumps(fetch(pathlib.Path(root), RemoteFile(place, url)).sha256))
except FinalError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize("offline", [False, True])
def test_the_variables_of_the_package_are_heeded(server: Hub, root, tmp_path, offline):
    """It reads them when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {"HF_TOKEN": "hf_mine"}
    command = [sys.executable, "-c", CHILD, URL, PLACE, str(root)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer = json.loads(run.stdout)
    if offline:
        assert answer == "HF_HUB_OFFLINE is set" and server.log == []
    else:
        assert answer == sha256(WEIGHTS) and (root / PLACE).read_bytes() == WEIGHTS
        assert {row.token for row in server.log} == {"hf_mine"}


def test_both_requests_are_of_one_commit(server, root, monkeypatch):
    """The branch may move between them."""
    asked = []
    real = huggingface_hub.hf_hub_download

    def noting(*words, **options):
        asked.append(options["revision"])
        return real(*words, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", noting)
    fetch(root, FILE)
    assert asked == ["main", COMMIT]
