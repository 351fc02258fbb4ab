"""Published files of models: downloaded once, whole or not at all, by one process; what is said else."""

import concurrent.futures
import dataclasses
import errno
import functools
import json
import logging
import os
import pathlib
import subprocess
import sys
import threading

import huggingface_hub
import pytest
from download_server import Fault, Server, noise, serving, sha256
from etils import epath
from hub_server import COMMIT, Hub, serving_hub
from huggingface_hub import constants
from huggingface_hub.utils import _http
from parity_weights import IMAGE, TEXT

from ilias_jax import download
from ilias_jax.config import ModelConfig
from ilias_jax.download import DownloadError, RemoteFile, RetryPolicy
from ilias_jax.errors import UserError
from ilias_jax.models import hub
from ilias_jax.models.hub import fetch_from_hub
from ilias_jax.models.layers import TransformerSize
from ilias_jax.models.registry.entry import PublishedFile, Variant, Vocabulary
from ilias_jax.models.registry.registry import VARIANTS, resolve
from ilias_jax.models.registry.siglip import siglip

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


def failure(root: pathlib.Path, file: RemoteFile = FILE, kind: type = DownloadError) -> str:
    with pytest.raises(kind) as error:
        fetch_from_hub(root, file)
    assert not (root / file.path).exists()
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, (REPOSITORY, "main", NAME)),
        (
            "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/sub/x%20y.npz",
            ("a/b", "refs/pr/1", "sub/x y.npz"),
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
    assert hub._parse(url) == expected and hub.is_on_hub(url) is (expected is not None)


def test_a_file_lands_at_its_place_and_nothing_beside_it(server, root):
    assert fetch_from_hub(root, FILE) == (sha256(WEIGHTS), True)
    assert [path for path in root.rglob("*") if path.is_file()] == [root / PLACE]
    assert (root / PLACE).read_bytes() == WEIGHTS
    assert not (root / PLACE).is_symlink()  # into a cache that somebody may empty
    assert len(server.gets()) == 1 and server.gets()[0].token is None


def test_a_file_in_a_folder_of_the_repository(server, root):
    server.files[f"{REPOSITORY}/open_clip/model.bin"] = b"in a folder"
    url = f"https://huggingface.co/{REPOSITORY}/resolve/main/open_clip/model.bin"
    fetch_from_hub(root, RemoteFile(url.removeprefix("https://"), url))
    assert (root / url.removeprefix("https://")).read_bytes() == b"in a folder"


def test_a_published_digest_is_compared(server, root):
    assert fetch_from_hub(root, RemoteFile(PLACE, URL, sha256(WEIGHTS)))[0] == sha256(WEIGHTS)
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
    assert fetch_from_hub(root, FILE) == (sha256(WEIGHTS), False)


def test_a_transfer_that_breaks_is_resumed(server, root, monkeypatch):
    """By the package, which writes a file in pieces of 10 MB."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    server.cuts = [100_000, 50_000]
    fetch_from_hub(root, FILE)
    assert (root / PLACE).read_bytes() == WEIGHTS
    assert [row.range for row in server.gets()] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_transfer_that_always_breaks_leaves_nothing_and_is_repeated(server, root):
    server.cuts = [100_000] + [0] * 20
    assert "no answer from the hub (" in failure(root)
    server.cuts = []
    fetch_from_hub(root, FILE)
    assert (root / PLACE).read_bytes() == WEIGHTS


def test_a_whole_file_of_a_killed_run_is_used(server, root, monkeypatch):
    """It was killed before the file was put in its place."""

    def kill(*unused):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hub.files, "sha256", kill)
        patch.setattr(hub.shutil, "rmtree", lambda *words, **options: None)
        with pytest.raises(KeyboardInterrupt):
            fetch_from_hub(root, FILE)
    assert not (root / PLACE).exists()
    assert fetch_from_hub(root, FILE) == (sha256(WEIGHTS), True)
    assert len(server.gets()) == 1
    assert [path for path in root.rglob("*") if path.is_file()] == [root / PLACE]


def test_the_token_is_sent(server, root, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", server.token)
    server.gated = {REPOSITORY}
    fetch_from_hub(root, FILE)
    assert {row.token for row in server.log} == {server.token}


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_a_gated_file_says_how_to_get_it(server, root, monkeypatch, token):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    server.gated = {REPOSITORY}
    assert failure(root) == (
        f"{REPOSITORY} is gated: ask for access on https://huggingface.co/{REPOSITORY} and set "
        "HF_TOKEN to a token of your account that may read gated repositories "
        '(https://huggingface.co/settings/tokens); curl needs -H "Authorization: Bearer '
        '$HF_TOKEN" then'
    )
    assert server.gets() == [] and {row.token for row in server.log} == {token}


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


def test_a_disk_that_is_too_small_for_a_file_of_the_hub(server, root, monkeypatch):
    monkeypatch.setattr(download, "free_space", lambda folder: 1000)
    assert failure(root, kind=UserError) == (
        f"{(root / PLACE).parent} has 1.0 kB free, and 300.0 kB (300,000 bytes) are still to "
        "fetch; free some space, or name another folder with ILIAS_JAX_CACHE"
    )
    assert server.gets() == []


def test_a_disk_that_gets_full_is_named(server, root, monkeypatch):
    def full(*unused):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub.files, "sha256", full)
    assert failure(root) == "the disk is full (No space left on device)"


def test_a_folder_that_cannot_be_made_is_named(server, root):
    root.parent.mkdir(exist_ok=True)
    root.write_bytes(b"a file")
    with pytest.raises(DownloadError, match=f"Not a directory: '{root}"):
        fetch_from_hub(root, FILE)


CHILD = """
import json, pathlib, sys
from ilias_jax.download import DownloadError, RemoteFile
from ilias_jax.models.hub import fetch_from_hub
url, place, root = sys.argv[1:]
try:
    print(json.dumps(fetch_from_hub(pathlib.Path(root), RemoteFile(place, url))[0]))
except DownloadError as error:
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
    fetch_from_hub(root, FILE)
    assert asked == ["main", COMMIT]


QUICK = RetryPolicy(retries=2, first_wait=0.001, longest_wait=0.01, read_timeout=20.0)
PIECES = noise("pieces", 5_000)
CONFIG = siglip(TransformerSize(**IMAGE), TransformerSize(**TEXT), 16, 6, 100)
SMALL = ModelConfig(name="small")
HUB_URL = "https://huggingface.co/owner/small/resolve/main/sub/small.npz"
HUB_FOLDERS = ("owner", "small", "resolve", "main", "sub")


@pytest.fixture
def web():
    """A plain server of the small model."""
    with serving() as server:
        server.files["/models/small.npz"] = WEIGHTS
        server.files["/vocabularies/small.model"] = PIECES
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch, web) -> pathlib.Path:
    """An empty cache, and a model in the table whose files are on the server."""
    monkeypatch.setenv("ILIAS_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ILIAS_JAX_OFFLINE")
    publish(monkeypatch, web)
    return tmp_path / "cache"


def publish(monkeypatch, server: Server, digest: str | None = None) -> None:
    """Puts the model into the table, with a published digest of its weights or without."""
    files = {"big_vision": PublishedFile(f"{server.url}/models/small.npz", digest)}
    vocabulary = Vocabulary(PublishedFile(f"{server.url}/vocabularies/small.model"), 100, pad_id=0)
    monkeypatch.setitem(VARIANTS, "small", Variant(CONFIG, 96, 128, files, vocabulary))


def bring(config: ModelConfig = SMALL, wanted: bool = True) -> list[str]:
    """What was said."""
    said: list[str] = []
    bring = functools.partial(hub.bring, dry_run=not wanted, policy=QUICK, say=said.append)
    resolve(config, bring=bring)
    return said


def error_of(config: ModelConfig = SMALL, wanted: bool = True) -> str:
    with pytest.raises(UserError) as error:
        bring(config, wanted)
    return str(error.value)


def tree(cache: pathlib.Path) -> set[str]:
    """Names of the files in the cache, without those that records of downloads are kept in."""
    paths = (path for path in cache.rglob("*") if path.is_file())
    return {path.name for path in paths if ".download" not in path.parts}


def test_files_are_downloaded_once_and_found_afterwards(cache, web):
    said = bring()
    assert f"downloading {web.url}/models/small.npz" in said
    files = resolve(SMALL)
    assert pathlib.Path(files.checkpoint).read_bytes() == WEIGHTS
    assert pathlib.Path(files.tokenizer).read_bytes() == PIECES
    host = web.url.removeprefix("http://")
    assert pathlib.Path(files.checkpoint) == cache / host / "models" / "small.npz"
    web.log.clear()
    assert bring() == []
    assert web.log == []


def test_a_file_without_a_published_digest_is_trusted_and_recorded(cache, web, caplog):
    with caplog.at_level(logging.WARNING):
        bring()
    path = pathlib.Path(resolve(SMALL).checkpoint)
    record = json.loads(path.with_name("small.npz.origin.json").read_text())
    assert record.pop("date").startswith("2")
    url = f"{web.url}/models/small.npz"
    assert record == {"url": url, "sha256": sha256(WEIGHTS), "published": False}
    assert f"{path}: no sha256 is published; {sha256(WEIGHTS)} is recorded" in caplog.text


def test_a_file_of_the_published_digest_is_not_warned_of(cache, web, monkeypatch, caplog):
    publish(monkeypatch, web, sha256(WEIGHTS))
    with caplog.at_level(logging.WARNING):
        bring()
    path = pathlib.Path(resolve(SMALL).checkpoint)
    record = json.loads(path.with_name("small.npz.origin.json").read_text())
    assert record["published"] is True
    assert "small.npz" not in caplog.text  # the tokenizer is warned of


def test_a_file_of_another_digest_is_not_kept(cache, web, monkeypatch):
    digest = sha256(b"other")
    publish(monkeypatch, web, digest)
    message = error_of()
    assert f"its sha256 is {sha256(WEIGHTS)}, published is {digest}" in message
    assert tree(cache) == {"small.model", "small.model.origin.json"}


def test_a_broken_download_is_resumed(cache, web):
    path = "/models/small.npz"
    web.faults[path] = [Fault(truncate_at=100_000), Fault(truncate_at=50_000)]
    bring()
    assert pathlib.Path(resolve(SMALL).checkpoint).read_bytes() == WEIGHTS
    starts = [row.range for row in web.gets(path)]
    assert starts[0] is None and len(starts) == 3 and starts[1].startswith("bytes=")
    assert web.sent(path) == len(WEIGHTS)


@pytest.fixture
def models_hub(server, cache, monkeypatch):
    """The model's weights are on the hub, its vocabulary elsewhere."""
    server.files["owner/small/sub/small.npz"] = WEIGHTS
    files = {"big_vision": PublishedFile(HUB_URL)}
    row = dataclasses.replace(VARIANTS["small"], files=files)
    monkeypatch.setitem(VARIANTS, "small", row)
    return server


def test_a_file_of_the_hub_is_downloaded_once_and_recorded(models_hub, web, caplog):
    with caplog.at_level(logging.WARNING):
        said = bring()
    assert said == [
        f"downloading {HUB_URL}",
        f"downloading {web.url}/vocabularies/small.model",
    ]
    files = resolve(SMALL)
    path = pathlib.Path(files.checkpoint)
    assert path.read_bytes() == WEIGHTS and path.parts[-6:-1] == HUB_FOLDERS
    assert pathlib.Path(files.tokenizer).read_bytes() == PIECES
    record = json.loads(path.with_name("small.npz.origin.json").read_text())
    assert record.pop("date").startswith("2")
    assert record == {"url": HUB_URL, "sha256": sha256(WEIGHTS), "published": True}
    assert "small.npz: no sha256 is published" not in caplog.text  # the hub states it
    models_hub.log.clear()
    assert bring() == [] and models_hub.log == []


def test_a_gated_file_is_named_with_address_place_and_remedy(models_hub, cache):
    models_hub.gated = {"owner/small"}
    message = error_of()
    path = cache.joinpath("huggingface.co", *HUB_FOLDERS, "small.npz")
    assert message.startswith(
        f"model.checkpoint: {path} does not exist and could not be downloaded (owner/small is "
        "gated: ask for access on https://huggingface.co/owner/small and set HF_TOKEN to"
    )
    assert message.endswith(f"Get it: curl --create-dirs -Lo {path} {HUB_URL}")
    assert tree(cache) == {"small.model", "small.model.origin.json"}  # what can be had is there


def test_failures_of_the_hub_and_of_others_are_told_together(models_hub, web):
    models_hub.files, web.files = {}, {}
    first, second = error_of().splitlines()
    assert first.startswith("model.checkpoint: ") and "the hub has no repository owner/" in first
    assert second.startswith("model.tokenizer: ") and "(404)" in second


def test_the_hub_is_not_asked_when_told_to_stay_offline(models_hub, monkeypatch):
    monkeypatch.setenv("ILIAS_JAX_OFFLINE", "1")
    assert "could not be downloaded (ILIAS_JAX_OFFLINE is set)" in error_of()
    assert models_hub.log == []


def test_what_came_before_a_run_was_ended_is_used_by_the_next(cache, web):
    path = "/models/small.npz"
    web.faults[path] = [Fault(truncate_at=100_000), Fault(status=404)]
    error_of()
    sent = web.sent(path)
    assert 0 < sent < len(WEIGHTS) and "small.npz" not in tree(cache)
    bring()
    assert web.sent(path) == len(WEIGHTS)
    assert pathlib.Path(resolve(SMALL).checkpoint).read_bytes() == WEIGHTS


def test_files_that_cannot_be_had_are_named_with_address_and_place(cache, web):
    web.files.clear()
    first, second = error_of().splitlines()
    host = web.url.removeprefix("http://")
    for line, key, name in (
        (first, "model.checkpoint", "models/small.npz"),
        (second, "model.tokenizer", "vocabularies/small.model"),
    ):
        target, url = cache / host / name, f"{web.url}/{name}"
        assert line.startswith(f"{key}: {target} does not exist and could not be downloaded (the ")
        assert line.endswith(f"(404)). Get it: curl --create-dirs -Lo {target} {url}")
    assert tree(cache) == set()


def test_without_a_network_every_file_is_named(cache, monkeypatch):
    closed = Server()
    closed.url = "http://127.0.0.1:9"  # nobody listens there
    publish(monkeypatch, closed)
    lines = error_of().splitlines()
    assert [line.split(":")[0] for line in lines] == ["model.checkpoint", "model.tokenizer"]
    assert all("no answer from 127.0.0.1:9" in line for line in lines)


def test_nothing_is_asked_for_when_told_to_stay_offline(cache, web, monkeypatch):
    monkeypatch.setenv("ILIAS_JAX_OFFLINE", "1")
    for wanted in (True, False):
        message = error_of(wanted=wanted)
        assert message.count("could not be downloaded (ILIAS_JAX_OFFLINE is set). Get it") == 2
    assert web.log == []
    assert not cache.exists()


def test_a_run_that_stops_anyway_downloads_nothing(cache, web, tmp_path):
    assert bring(wanted=False) == []
    assert web.log == []
    config = ModelConfig(name="small", checkpoint=str(tmp_path / "mine.npz"))
    assert "mine.npz does not exist" in error_of(config, wanted=False)


def test_a_file_that_somebody_put_there_is_taken_as_it_is(cache, web):
    path = cache / web.url.removeprefix("http://") / "models" / "small.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    bring()
    assert web.gets("/models/small.npz") == []
    assert path.read_bytes() == b"mine"
    assert tree(cache) == {"small.npz", "small.model", "small.model.origin.json"}


def test_a_disk_that_is_too_small_is_named_before_the_first_byte(cache, web, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("ilias_jax.download.shutil.disk_usage", lambda path: usage)
    message = error_of()
    assert "has 1.0 kB free, and 300.0 kB (300,000 bytes) are still to fetch" in message
    assert "or name another folder with ILIAS_JAX_CACHE). Get it: curl" in message
    assert web.sent("/models/small.npz") == 0


def test_of_several_at_once_one_downloads_and_the_others_wait(cache, web):
    web.bytes_per_second = 1_000_000
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        for future in [executor.submit(bring) for _ in range(3)]:
            future.result()
    assert pathlib.Path(resolve(SMALL).checkpoint).read_bytes() == WEIGHTS
    assert [row.sent for row in web.gets("/models/small.npz")] == [len(WEIGHTS)]


def test_who_waits_says_so(cache, monkeypatch):
    """The lock of one download is held while the other asks for it."""
    inside, leave = threading.Event(), threading.Event()
    real = download.fetch

    def slow(*words):
        inside.set()
        assert leave.wait(20)
        return real(*words)

    monkeypatch.setattr(download, "fetch", slow)
    first = threading.Thread(target=bring)
    first.start()
    assert inside.wait(20)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        leave.set()

    resolve(SMALL, bring=functools.partial(hub.bring, policy=QUICK, say=say))
    first.join()
    folder = pathlib.Path(cache)
    assert said == [f"another download is at work in {folder}; waiting for it"]


def test_the_origin_of_a_file_is_kept_beside_it(tmp_path):
    path = epath.Path(tmp_path / "a.npz")
    assert hub.verified_origin(path, "ab") is None  # nothing is known of it
    origin = hub.record_origin(path, PublishedFile("https://host/a.npz", "ab"), "ab")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz.origin.json"]
    assert hub.verified_origin(path, "ab") == origin
    assert str(origin) == f"https://host/a.npz, downloaded {origin.date}, sha256 as published"
    unpublished = dataclasses.replace(origin, published=False)
    assert str(unpublished).endswith("sha256 recorded then, none is published")


def test_a_file_that_is_not_what_was_downloaded_is_refused(tmp_path):
    path = epath.Path(tmp_path / "a.npz")
    hub.record_origin(path, PublishedFile("https://host/a.npz"), "ab")
    with pytest.raises(UserError) as error:
        hub.verified_origin(path, "cd")
    assert str(error.value) == (
        f"{path} is not what was downloaded from https://host/a.npz: its sha256 is cd, and was ab; "
        "remove it, and it is downloaded again"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": "x"}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "a.npz.origin.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.npz\.origin\.json is damaged"):
        hub.verified_origin(epath.Path(tmp_path / "a.npz"), "ab")
