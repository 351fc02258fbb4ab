"""Which files a request means."""

import pytest
from download_server import ADAPTER, CORE_TARS, MINI_TARS, add_huggingface, add_official, serving
from download_server import servers as addresses

from ilias_jax.download import catalogue
from ilias_jax.download.catalogue import Request, Servers
from ilias_jax.download.retry import Patience
from ilias_jax.download.web import Web
from ilias_jax.errors import UserError

IDS = [
    "image_ids/image_query_ids.txt",
    "image_ids/text_query_ids.txt",
    "image_ids/positive_ids.txt",
    "image_ids/distractor_ids.txt.gz",
    "image_ids/mini_ilias_yfcc100m_ids.txt",
    "misc/taxonomy.json",
]
TARS = [f"yfcc100m/yfcc100m_{number:04d}.tar" for number in range(6)]


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        add_official(server, 10)
        add_huggingface(server, 10)
        yield server


def read(server, request):
    server.log.clear()
    with Web(Patience(retries=0), lambda line: None) as web:
        return catalogue.read(web, request, addresses(server))


def paths(server, **request):
    return [file.path for file in read(server, Request(**request)).files]


def test_the_default_is_what_fits_on_a_laptop(server):
    assert paths(server) == [*IDS, "ilias_core.tar"]


def test_tars_and_adapters_imply_their_parts(server):
    assert paths(server, tars="1:3") == [*IDS, "ilias_core.tar", *TARS[1:3]]
    layer = f"lin_adapt_layers/{ADAPTER}.pth"
    assert paths(server, adapters=(ADAPTER,)) == [*IDS, layer, "ilias_core.tar"]


def test_parts_are_exactly_those_named(server):
    assert paths(server, parts=("yfcc",)) == TARS
    assert paths(server, parts=("yfcc",), tars="yfcc100m_0004.tar") == TARS[4:5]
    assert paths(server, parts=("core",)) == ["ilias_core.tar"]
    assert paths(server, parts=("ids",)) == IDS


def test_hugging_face_gives_tars_and_the_official_server_ids(server):
    request = Request("huggingface", ("ids", "core", "yfcc"), "1:")
    found = read(server, request)
    assert [file.path for file in found.files] == [*IDS, *CORE_TARS, *MINI_TARS[1:]]
    (note,) = found.notes
    assert "no text queries" in note and "ilias-jax download --output {root} --parts core" in note


def test_hugging_face_alone_does_not_ask_the_official_server(server):
    found = read(server, Request("huggingface", ("yfcc",)))
    assert [file.path for file in found.files] == list(MINI_TARS)
    assert found.checksums is None and found.notes == ()
    assert not [row for row in server.log if "ilias_data" in row.path]


def test_a_copy_with_texts_needs_no_note(server):
    name = f"/api/datasets/{catalogue.huggingface.DATASET}/tree/main?recursive=true"
    fault = server.always[name]
    try:
        body = fault.body.replace(CORE_TARS[1].encode(), b"ilias-core-queries-text-000000.tar")
        server.always[name] = type(fault)(body=body, headers=fault.headers)
        assert read(server, Request("huggingface", ("core",))).notes == ()
    finally:
        server.always[name] = fault


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "hf"}, "--source hf: allowed are official, huggingface"),
        ({"parts": ("ids", "yfc")}, "--parts yfc: allowed are ids, core, yfcc, adapters"),
        ({"parts": ("ids",), "tars": "0"}, "--tars 0 needs yfcc among --parts ids"),
        ({"parts": ("ids",), "adapters": ("a",)}, "--adapters a needs adapters in --parts ids"),
        ({"parts": ("adapters",)}, "--parts adapters needs --adapters NAME,NAME"),
    ],
)
def test_requests_that_contradict_themselves(values, message):
    with pytest.raises(UserError) as caught:
        Request(**values)
    assert str(caught.value).startswith(message)


def test_addresses_are_checked():
    assert Servers(base_url="http://host/x//").base_url == "http://host/x"
    with pytest.raises(UserError, match="--huggingface_url 'huggingface.co' is no http"):
        Servers(huggingface_url="huggingface.co")


def test_a_server_that_lacks_what_is_asked_for(server):
    only_core = server.files["/ilias_data/checksums.txt"].splitlines(keepends=True)
    try:
        server.files["/ilias_data/checksums.txt"] = only_core[0]
        with pytest.raises(UserError, match="lists no yfcc100m tar"):
            paths(server, parts=("yfcc",))
        server.files["/ilias_data/checksums.txt"] = b"".join(only_core[1:])
        with pytest.raises(UserError, match=r"does not list ilias_core\.tar"):
            paths(server, parts=("core",))
    finally:
        server.files["/ilias_data/checksums.txt"] = b"".join(only_core)
