"""Which files a request means, and what lists of files say, hostile ones too."""

import json

import pytest
from download_server import (
    ADAPTER,
    CORE_TARS,
    MINI_TARS,
    Fault,
    add_huggingface,
    add_official,
    serving,
    sha256,
)
from download_server import servers as addresses

from ilias_jax.dataset import catalogue
from ilias_jax.dataset.catalogue import Request, Servers
from ilias_jax.download import Client, RetryPolicy
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
    with Client(RetryPolicy(retries=0), lambda line: None) as client:
        return catalogue.read(client, request, addresses(server))


def paths(server, **request):
    return [file.path for file in read(server, Request(**request))[0]]


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
    files, _, (note,) = read(server, request)
    assert [file.path for file in files] == [*IDS, *CORE_TARS, *MINI_TARS[1:]]
    assert "no text queries" in note and "ilias-jax download --output {root} --parts core" in note


def test_hugging_face_alone_does_not_ask_the_official_server(server):
    files, checksums, notes = read(server, Request("huggingface", ("yfcc",)))
    assert [file.path for file in files] == list(MINI_TARS)
    assert checksums is None and notes == []
    assert not [row for row in server.log if "ilias_data" in row.path]


def test_a_copy_with_texts_needs_no_note(server):
    name = f"/api/datasets/{catalogue.DATASET}/tree/main?recursive=true"
    fault = server.always[name]
    try:
        body = fault.body.replace(CORE_TARS[1].encode(), b"ilias-core-queries-text-000000.tar")
        server.always[name] = type(fault)(body=body, headers=fault.headers)
        assert read(server, Request("huggingface", ("core",)))[2] == []
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
        ({"adapters": ("../x",)}, "--adapters '../x' is no name of a model"),
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
        with pytest.raises(UserError, match=r"checksums\.txt lists no tar of the part yfcc"):
            paths(server, parts=("yfcc",))
        server.files["/ilias_data/checksums.txt"] = b"".join(only_core[1:])
        with pytest.raises(UserError, match=r"checksums\.txt lists no tar of the part core"):
            paths(server, parts=("core",))
    finally:
        server.files["/ilias_data/checksums.txt"] = b"".join(only_core)


BASE = catalogue.BASE_URL
A, B = "a" * 64, "b" * 64
PLACE = "https://mirror/checksums.txt"


def parse(*lines, base_url=BASE):
    return list(catalogue.parse_checksums("\n".join(lines) + "\n", PLACE, base_url).values())


def test_files_have_their_place_and_published_order():
    files = parse(
        f"{A}  {BASE}/ilias_core.tar",
        "",
        f"{B.upper()}  {BASE}/yfcc100m/yfcc100m_0002.tar",
        f"{A} *{BASE}/yfcc100m/yfcc100m_0001.tar",
        f"{A}  {BASE}/image_ids/distractor_ids.txt.gz",
        f"{A}  {BASE}/image_ids/mini_ilias_yfcc100m_ids.txt",
        f"{A}  {BASE}/lin_adapt_layers/siglip.pth",
        f"{A}  {BASE}/features/siglip.hdf5",
        f"{A}  {BASE}/features/siglip_base.pth",
    )
    assert [file.path for file in files] == [
        "ilias_core.tar",
        "yfcc100m/yfcc100m_0002.tar",
        "yfcc100m/yfcc100m_0001.tar",
        "image_ids/distractor_ids.txt.gz",
        "image_ids/mini_ilias_yfcc100m_ids.txt",
        "lin_adapt_layers/siglip.pth",
    ]
    assert files[1].sha256 == B and files[1].url == f"{BASE}/yfcc100m/yfcc100m_0002.tar"


def test_a_mirror_is_asked_for_the_same_paths():
    core, elsewhere = parse(
        f"{A}  {BASE}/ilias_core.tar",
        f"{B}  http://other.example/x/yfcc100m_0.tar",
        base_url="http://mirror/m",
    )
    assert core.url == "http://mirror/m/ilias_core.tar"
    assert elsewhere.url == "http://other.example/x/yfcc100m_0.tar"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("<!DOCTYPE html>", "is not `sha256  url`"),
        (f"{A[1:]}  {BASE}/ilias_core.tar", "is not `sha256  url`"),
        (f"{A}  {BASE}/ilias core.tar", "is not `sha256  url`"),
        (f"{A}", "is not `sha256  url`"),
        (f"{A}  file:///etc/passwd", "no http or https address"),
        (f"{A}  ../../etc/passwd", "no http or https address"),
        (f"{A}  //host/ilias_core.tar", "no http or https address"),
        (f"{A}  ftp://host/yfcc100m/yfcc100m_0.tar", "no http or https address"),
        (f"{A}  http:///ilias_core.tar", "no http or https address"),
        (f"{A}  http://[::1/ilias_core.tar", "no http or https address"),
        (f"{A}  {BASE}/yfcc100m/../../yfcc100m.tar", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/%2e%2e/yfcc100m.tar", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/..%2f..%2fyfcc100m.tar", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/.yfcc100m.tar", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/..", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/-yfcc100m.tar", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/yfcc100m\x00.tar", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/a\\yfcc100m.tar", "plain file name"),
        (f"{A}  {BASE}/yfcc100m/yfcc100m{'x' * 300}.tar", "plain file name"),
    ],
)
def test_a_bad_line_is_named(line, words):
    with pytest.raises(UserError) as caught:
        parse(f"{A}  {BASE}/ilias_core.tar", line)
    assert str(caught.value).startswith(f"{PLACE}:2: ") and words in str(caught.value)
    assert len(str(caught.value)) < 350


def test_one_name_has_one_digest():
    line = f"{A}  {BASE}/ilias_core.tar"
    assert len(parse(line, line)) == 1
    with pytest.raises(UserError, match=r"checksums.txt:2: ilias_core.tar has another sha256"):
        parse(line, f"{B}  {BASE}/ilias_core.tar")


def test_a_list_without_our_files_is_no_list():
    with pytest.raises(UserError, match="lists none of the dataset's files"):
        parse(f"{A}  {BASE}/readme.txt")


def test_adapters_by_the_name_of_the_model(server):
    """What checksums.txt does not list has no published digest."""
    listed = server.files["/ilias_data/checksums.txt"]
    server.files["/ilias_data/checksums.txt"] = (
        listed + f"{A}  {BASE}/lin_adapt_layers/a.b.pth\n".encode()
    )
    try:
        request = Request(parts=("adapters",), adapters=("a.b", "c.pth", "a.b"))
        known, new = read(server, request)[0]
    finally:
        server.files["/ilias_data/checksums.txt"] = listed
    assert known.sha256 == A
    assert (new.path, new.sha256) == ("lin_adapt_layers/c.pth", None)
    assert new.url == f"{server.url}/ilias_data/lin_adapt_layers/c.pth"


def test_names_of_files():
    good = catalogue._NAME.fullmatch
    assert good("yfcc100m_0001.tar") and good("a+b-c.x")
    for name in ("", ".", "..", ".x", "a/b", "a\\b", "a b", "a\n", "ä", "-x", "x" * 201, "a%2fb"):
        assert not good(name), name


LIST = f"/api/datasets/{catalogue.DATASET}/tree/main?recursive=true"
LFS = {"oid": "a" * 64, "size": 5}


@pytest.fixture
def copy():
    """A server that has nothing yet."""
    with serving() as server:
        yield server


def listing(server):
    with Client(RetryPolicy(retries=0), lambda line: None) as client:
        return list(catalogue.list_huggingface(client, server.url).values())


def test_both_pages_are_read(copy):
    data = add_huggingface(copy)
    files = listing(copy)
    assert [file.path for file in files] == [*CORE_TARS, *MINI_TARS]
    for file in files:
        assert file.sha256 == sha256(data[file.path]) and file.size == len(data[file.path])
        assert file.url == f"{copy.url}/datasets/vrg-prague/ilias/resolve/main/{file.path}"


def only(server, *rows):
    server.files[LIST] = json.dumps(rows).encode()


@pytest.mark.parametrize(
    "path", ["../../x.tar", "/etc/ilias-core-a.tar", "a/../ilias-core-a.tar", "a\\..\\b", "a\nb"]
)
def test_a_path_that_leads_elsewhere_is_refused(copy, path):
    good = {"type": "file", "path": "ilias-core-a.tar", "size": 5, "lfs": LFS}
    only(copy, good, {"type": "file", "path": path, "size": 5, "lfs": LFS})
    with pytest.raises(UserError, match=r"vrg-prague/ilias, entry 1: .* leads out of the folder"):
        listing(copy)


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
def test_entries_that_say_too_little(copy, row, words):
    only(copy, row)
    with pytest.raises(UserError, match=words):
        listing(copy)


def test_two_files_of_one_name_are_refused(copy):
    row = {"type": "file", "path": "ilias-core-a.tar", "size": 5, "lfs": LFS}
    only(copy, row, {**row, "path": "old/ilias-core-a.tar"})
    with pytest.raises(UserError, match="a second file of the name"):
        listing(copy)


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"<html>", r"broken JSON .*it begins with b'<html>'"), (b'{"error": "x"}', "gave no list")],
)
def test_answers_of_another_kind(copy, body, words):
    copy.files[LIST] = body
    with pytest.raises(UserError, match=words):
        listing(copy)


def test_a_list_without_end_ends(copy):
    copy.always[LIST] = Fault(body=b"[]", headers=(("Link", f'<{LIST}>; rel="next"'),))
    copy.files[LIST] = b""
    with pytest.raises(UserError, match="goes on after 100 pages"):
        listing(copy)


def test_a_copy_without_the_tars_says_so(copy):
    only(copy, {"type": "file", "path": "ilias_core.tar", "size": 5, "lfs": LFS})
    for part in ("core", "yfcc"):
        message = f"dataset vrg-prague/ilias lists no tar of the part {part}"
        with pytest.raises(UserError, match=message):
            read(copy, Request("huggingface", (part,)))


LETTERS = [f"{letter}.tar" for letter in "abcdef"]


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("0:2", "ab"),
        (":", "abcdef"),
        ("0:6", "abcdef"),
        ("4:", "ef"),
        (":1", "a"),
        ("5", "f"),
        ("d.tar", "d"),
        ("3, 0:2, b.tar, 3", "abd"),
    ],
)
def test_tars_are_taken_once_and_in_order(text, letters):
    assert [LETTERS[number][0] for number in catalogue.select_tars(LETTERS, text)] == list(letters)


@pytest.mark.parametrize(
    "text", ["", "x", "2:1", "-1", "1-3", "1:2:3", "g.tar", "1,,2", "1.0", "¹", "3,", "3:3", "9:"]
)
def test_what_names_no_tar_is_refused(text):
    with pytest.raises(UserError, match=r"names no tar; allowed are, separated by commas"):
        catalogue.select_tars(LETTERS, text)


@pytest.mark.parametrize("text", ["6", "2:9"])
def test_a_number_beyond_the_last_is_refused(text):
    with pytest.raises(UserError, match="the 6 tars have the numbers 0 to 5"):
        catalogue.select_tars(LETTERS, text)
