"""Published files on first use: downloaded once, whole or not at all, by one process."""

import dataclasses
import json
import logging
import pathlib
import subprocess
import sys
import threading

import pytest
from download_server import Fault, Server, noise, serving, sha256
from hub_server import serving_hub
from huggingface_hub import constants
from parity_weights import IMAGE, TEXT

from ilias_jax import model_files
from ilias_jax.config import ModelConfig
from ilias_jax.download.retry import Patience
from ilias_jax.errors import UserError
from ilias_jax.model_files import bring_model_files
from ilias_jax.towers.files import find_files
from ilias_jax.towers.layers import Width
from ilias_jax.towers.siglip import siglip
from ilias_jax.towers.variant import PublishedFile, Variant, Vocabulary
from ilias_jax.towers.variants import VARIANTS

QUICK = Patience(retries=2, first_wait=0.001, longest_wait=0.01, read_timeout=20.0)
WEIGHTS, PIECES = noise("weights", 300_000), noise("pieces", 5_000)
CONFIG = siglip(Width(**IMAGE), Width(**TEXT), 16, 6, 100)
SMALL = ModelConfig(name="small")
HUB_URL = "https://huggingface.co/owner/small/resolve/main/sub/small.npz"
HUB_FOLDERS = ("owner", "small", "resolve", "main", "sub")


@pytest.fixture
def server():
    with serving() as server:
        server.files["/models/small.npz"] = WEIGHTS
        server.files["/vocabularies/small.model"] = PIECES
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch, server) -> pathlib.Path:
    """An empty cache, and a model in the table whose files are on the server."""
    monkeypatch.setenv("ILIAS_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ILIAS_JAX_OFFLINE")
    publish(monkeypatch, server)
    return tmp_path / "cache"


def publish(monkeypatch, server: Server, digest: str | None = None) -> None:
    """Puts the model into the table, with a published digest of its weights or without."""
    files = {"big_vision": PublishedFile(f"{server.url}/models/small.npz", digest)}
    vocabulary = Vocabulary(PublishedFile(f"{server.url}/vocabularies/small.model"), 100, pad_id=0)
    monkeypatch.setitem(VARIANTS, "small", Variant(CONFIG, 96, 128, files, vocabulary))


def bring(config: ModelConfig = SMALL, download: bool = True) -> list[str]:
    """What was said."""
    said: list[str] = []
    bring_model_files(config, download, QUICK, said.append)
    return said


def error_of(config: ModelConfig = SMALL, download: bool = True) -> str:
    with pytest.raises(UserError) as error:
        bring(config, download)
    return str(error.value)


def tree(cache: pathlib.Path) -> set[str]:
    """Names of the files in the cache, without those that records of downloads are kept in."""
    paths = (path for path in cache.rglob("*") if path.is_file())
    return {path.name for path in paths if ".download" not in path.parts}


def test_files_are_downloaded_once_and_found_afterwards(cache, server):
    said = bring()
    assert f"downloading {server.url}/models/small.npz" in said
    files = find_files(SMALL)
    assert pathlib.Path(files.checkpoint).read_bytes() == WEIGHTS
    assert pathlib.Path(files.tokenizer).read_bytes() == PIECES
    host = server.url.removeprefix("http://")
    assert pathlib.Path(files.checkpoint) == cache / host / "models" / "small.npz"
    server.log.clear()
    assert bring() == []
    assert server.log == []


def test_a_file_without_a_published_digest_is_trusted_and_recorded(cache, server, caplog):
    with caplog.at_level(logging.WARNING):
        bring()
    path = pathlib.Path(find_files(SMALL).checkpoint)
    record = json.loads(path.with_name("small.npz.origin.json").read_text())
    assert record.pop("date").startswith("2")
    url = f"{server.url}/models/small.npz"
    assert record == {"url": url, "sha256": sha256(WEIGHTS), "published": False}
    assert f"{path}: no sha256 is published; {sha256(WEIGHTS)} is recorded" in caplog.text


def test_a_published_digest_is_compared(cache, server, monkeypatch, caplog):
    publish(monkeypatch, server, sha256(WEIGHTS))
    with caplog.at_level(logging.WARNING):
        bring()
    path = pathlib.Path(find_files(SMALL).checkpoint)
    record = json.loads(path.with_name("small.npz.origin.json").read_text())
    assert record["published"] is True
    assert "small.npz" not in caplog.text  # the tokenizer is warned of


def test_a_file_of_another_digest_is_not_kept(cache, server, monkeypatch):
    digest = sha256(b"other")
    publish(monkeypatch, server, digest)
    message = error_of()
    assert f"its sha256 is {sha256(WEIGHTS)}, published is {digest}" in message
    assert tree(cache) == {"small.model", "small.model.origin.json"}


def test_a_broken_download_is_resumed(cache, server):
    path = "/models/small.npz"
    server.faults[path] = [Fault(truncate_at=100_000), Fault(truncate_at=50_000)]
    bring()
    assert pathlib.Path(find_files(SMALL).checkpoint).read_bytes() == WEIGHTS
    starts = [row.range for row in server.gets(path)]
    assert starts[0] is None and len(starts) == 3 and starts[1].startswith("bytes=")
    assert server.sent(path) == len(WEIGHTS)


@pytest.fixture
def hub(cache, server, monkeypatch):
    """The model's weights are on a hub, its vocabulary elsewhere."""
    with serving_hub() as hub:
        hub.files["owner/small/sub/small.npz"] = WEIGHTS
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "none"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "none"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        files = {"big_vision": PublishedFile(HUB_URL)}
        row = dataclasses.replace(VARIANTS["small"], files=files)
        monkeypatch.setitem(VARIANTS, "small", row)
        yield hub


def test_a_file_of_the_hub_is_downloaded_once_and_recorded(hub, server, caplog):
    with caplog.at_level(logging.WARNING):
        said = bring()
    assert said[:2] == [
        f"downloading {HUB_URL}",
        f"downloading {server.url}/vocabularies/small.model",
    ]
    files = find_files(SMALL)
    path = pathlib.Path(files.checkpoint)
    assert path.read_bytes() == WEIGHTS and path.parts[-6:-1] == HUB_FOLDERS
    assert pathlib.Path(files.tokenizer).read_bytes() == PIECES
    record = json.loads(path.with_name("small.npz.origin.json").read_text())
    assert record.pop("date").startswith("2")
    assert record == {"url": HUB_URL, "sha256": sha256(WEIGHTS), "published": True}
    assert "small.npz: no sha256 is published" not in caplog.text  # the hub states it
    hub.log.clear()
    assert bring() == [] and hub.log == []


def test_a_gated_file_is_named_with_address_place_and_remedy(hub, cache):
    hub.gated = {"owner/small"}
    message = error_of()
    path = cache.joinpath("huggingface.co", *HUB_FOLDERS, "small.npz")
    assert message.startswith(
        f"model.checkpoint: {path} does not exist and could not be downloaded (owner/small is "
        "gated: ask for access on https://huggingface.co/owner/small and set HF_TOKEN to"
    )
    assert message.endswith(f"Get it: curl --create-dirs -Lo {path} {HUB_URL}")
    assert tree(cache) == {"small.model", "small.model.origin.json"}  # what can be had is there


def test_failures_of_the_hub_and_of_others_are_told_together(hub, server):
    hub.files, server.files = {}, {}
    first, second = error_of().splitlines()
    assert first.startswith("model.checkpoint: ") and "the hub has no repository owner/" in first
    assert second.startswith("model.tokenizer: ") and "(404)" in second


def test_the_hub_is_not_asked_when_told_to_stay_offline(hub, monkeypatch):
    monkeypatch.setenv("ILIAS_JAX_OFFLINE", "1")
    assert "could not be downloaded (ILIAS_JAX_OFFLINE is set)" in error_of()
    assert hub.log == []


def test_what_came_before_a_run_was_ended_is_used_by_the_next(cache, server):
    path = "/models/small.npz"
    server.faults[path] = [Fault(truncate_at=100_000), Fault(status=404)]
    error_of()
    sent = server.sent(path)
    assert 0 < sent < len(WEIGHTS) and "small.npz" not in tree(cache)
    bring()
    assert server.sent(path) == len(WEIGHTS)
    assert pathlib.Path(find_files(SMALL).checkpoint).read_bytes() == WEIGHTS


def test_files_that_cannot_be_had_are_named_with_address_and_place(cache, server):
    server.files.clear()
    first, second = error_of().splitlines()
    host = server.url.removeprefix("http://")
    for line, key, name in (
        (first, "model.checkpoint", "models/small.npz"),
        (second, "model.tokenizer", "vocabularies/small.model"),
    ):
        target, url = cache / host / name, f"{server.url}/{name}"
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


def test_nothing_is_asked_for_when_told_to_stay_offline(cache, server, monkeypatch):
    monkeypatch.setenv("ILIAS_JAX_OFFLINE", "1")
    for download in (True, False):
        message = error_of(download=download)
        assert message.count("could not be downloaded (ILIAS_JAX_OFFLINE is set). Get it") == 2
    assert server.log == []
    assert not cache.exists()


def test_a_run_that_stops_anyway_downloads_nothing(cache, server, tmp_path):
    assert bring(download=False) == []
    assert server.log == []
    config = ModelConfig(name="small", checkpoint=str(tmp_path / "mine.npz"))
    assert "mine.npz does not exist" in error_of(config, download=False)


def test_a_file_that_somebody_put_there_is_taken_as_it_is(cache, server):
    path = cache / server.url.removeprefix("http://") / "models" / "small.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    bring()
    assert server.gets("/models/small.npz") == []
    assert path.read_bytes() == b"mine"
    assert tree(cache) == {"small.npz", "small.model", "small.model.origin.json"}


def test_a_disk_that_is_too_small_is_named_before_the_first_byte(cache, server, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("ilias_jax.download.plan.shutil.disk_usage", lambda path: usage)
    message = error_of()
    assert "has 1.0 kB free, and 305.0 kB (305,000 bytes) are still to fetch" in message
    assert message.endswith("or name another folder with ILIAS_JAX_CACHE")
    assert server.sent("/models/small.npz") == 0


CHILD = """
import sys
from ilias_jax.config import ModelConfig
from ilias_jax.model_files import bring_model_files
from ilias_jax.towers.files import find_files
from ilias_jax.towers.variant import PublishedFile, Variant, Vocabulary
from ilias_jax.towers.variants import VARIANTS
row, url = VARIANTS["tiny"], sys.argv[1]
files = {"big_vision": PublishedFile(f"{url}/models/small.npz")}
vocabulary = Vocabulary(PublishedFile(f"{url}/vocabularies/small.model"), 100, pad_id=0)
VARIANTS["small"] = Variant(row.architecture, 96, 128, files, vocabulary)
bring_model_files(ModelConfig(name="small"))
print(find_files(ModelConfig(name="small")).checkpoint.stat().length)
"""


def test_of_several_processes_one_downloads_and_the_others_wait(cache, server):
    server.bytes_per_second = 500_000
    command = [sys.executable, "-c", CHILD, server.url]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipe) for _ in range(3)]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert all(out.splitlines()[-1] == str(len(WEIGHTS)) for out, _ in outputs)
    assert server.sent("/models/small.npz") == len(WEIGHTS)
    assert len(server.gets("/models/small.npz")) == 1


def test_who_waits_says_so(cache, monkeypatch):
    """The lock of one download is held while the other asks for it."""
    inside, leave = threading.Event(), threading.Event()
    real = model_files.fetch.fetch_listed

    def slow(*words, **options):
        inside.set()
        assert leave.wait(20)
        return real(*words, **options)

    monkeypatch.setattr(model_files.fetch, "fetch_listed", slow)
    first = threading.Thread(target=bring)
    first.start()
    assert inside.wait(20)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        leave.set()

    bring_model_files(SMALL, True, QUICK, say)
    first.join()
    assert len(said) == 1 and said[0].startswith("another download is at work in ")
    assert said[0].endswith("; waiting for it")
