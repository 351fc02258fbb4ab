"""checksums.txt: good lines, hostile lines, and where files belong."""

import pytest

from ilias_jax.download import official
from ilias_jax.errors import UserError

BASE = official.BASE_URL
A, B = "a" * 64, "b" * 64
PLACE = "https://mirror/checksums.txt"


def parse(*lines, base_url=BASE):
    return official.parse_checksums("\n".join(lines) + "\n", PLACE, base_url)


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


def test_adapters_by_the_name_of_the_model():
    listed = {"lin_adapt_layers/a.b.pth": official.RemoteFile("lin_adapt_layers/a.b.pth", "u", A)}
    known, new = official.adapters(("a.b", "c.pth", "a.b"), listed, "http://m")
    assert known.sha256 == A
    assert (new.path, new.url, new.sha256) == (
        "lin_adapt_layers/c.pth",
        "http://m/lin_adapt_layers/c.pth",
        None,
    )
    with pytest.raises(UserError, match=r"--adapters '\.\./x' is no name of a model"):
        official.adapters(("../x",), {}, "http://m")
