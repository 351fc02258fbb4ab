"""Which members are images, their ids, and why some are rejected."""

import pytest
from official_forms import jpeg

from ilias_jax.dataset import tar
from ilias_jax.dataset.intake import Intake, split_name

GOOD = jpeg()


def member(name, data=GOOD, kind=tar.FILE, size=None, sound=True):
    return tar.Member(name, kind, 512, len(data or b"") if size is None else size, data, sound)


def taken(*members):
    """Ids, rejects and the number of other files of some members."""
    intake = Intake("y.tar")
    records = list(intake.records(members))
    assert [record.image_id for record in records] == list(intake.ids)
    assert intake.num_images == len(intake.ids) + len(intake.rejected)
    return list(intake.ids), intake.rejected, intake.num_others


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("0001.jpg", "0001"),
        ("ab/cd/0001.JPG", "ab/cd/0001"),
        ("./0001.jpg", "./0001"),
        ("a.b/0001.jpg", "a.b/0001"),
        ("größe 2.jpg", "größe 2"),
    ],
)
def test_the_key_is_that_of_webdataset(name, key):
    assert taken(member(name)) == ([f"y.tar/{key}"], [], 0)


def test_split_name_cuts_at_the_first_dot_of_the_base_name():
    assert split_name("a.b/c.d.e") == ("a.b/c", "d.e")
    assert split_name("x") == ("x", "")
    assert split_name("a/.hidden.jpg") == ("", "hidden.jpg")


@pytest.mark.parametrize("name", ["1.txt", "1.jpg.json", "1.cls", "README", "1.bbox.json"])
def test_other_files_are_counted(name):
    assert taken(member(name, b"x"), member("2.jpg")) == (["y.tar/2"], [], 1)


def test_folders_are_nothing():
    assert taken(member("odd.jpg", None, tar.FOLDER)) == ([], [], 0)


@pytest.mark.parametrize(
    ("bad", "image_id", "reason"),
    [
        (member("a/1.jpg", b""), "a/1", "empty"),
        (member("1.jpg", b"abc"), "1", "not a JPEG: it does not begin with FF D8"),
        (member("1.jpg", None, "a symbolic link"), "1", "a symbolic link, not a file"),
        (member("1.jpg", None, "a sparse file", 4 << 30), "1", "a sparse file, not a file"),
        (
            member("1.jpg", None, size=4 << 30),
            "1",
            "4,294,967,296 bytes; at most 268,435,456 are allowed",
        ),
        (member("../1.jpg"), "../1", "its name leads outside of the tar"),
        (member("a/../../1.jpg"), "a/../../1", "its name leads outside of the tar"),
        (member("/etc/1.jpg"), "/etc/1", "its name leads outside of the tar"),
        (member("a/._1.jpg"), "a/._1.jpg", "its file name begins with a dot"),
        (member("1.png"), "1", "its extension is .png; the benchmark takes .jpg alone"),
        (member("1.jpeg"), "1", "its extension is .jpeg; the benchmark takes .jpg alone"),
        (member("1.b.jpg"), "1", "its extension is .b.jpg; the benchmark takes .jpg alone"),
        (member("a\nb.jpg"), "a\\nb", "its name is not UTF-8 or has control characters"),
        (
            member("a\\xff.jpg", sound=False),
            "a\\xff",
            "its name is not UTF-8 or has control characters",
        ),
    ],
)
def test_a_bad_image_is_rejected_with_its_reason(bad, image_id, reason):
    assert taken(bad, member("good.jpg")) == (
        ["y.tar/good"],
        [(f"y.tar/{image_id}", reason)],
        0,
    )


def test_the_first_sound_image_of_an_id_is_kept():
    intake = Intake("y.tar")
    first, second = jpeg(1), jpeg(2)
    members = [member("1.jpg", b"bad"), member("1.jpg", first), member("1.JPG", second)]
    (record,) = intake.records(members)
    assert record.jpeg == first
    assert intake.rejected == [
        ("y.tar/1", "not a JPEG: it does not begin with FF D8"),
        ("y.tar/1", "another image before it has the same id"),
    ]
