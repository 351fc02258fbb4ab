"""Which bytes and members are images, their ids, and why some are rejected: sizes as Pillow has them."""

import io
import random

import pytest
from official_forms import jpeg
from PIL import Image

from ilias_jax.dataset import tars
from ilias_jax.dataset.tars import (
    MAX_PIXELS,
    ImageFilter,
    image_problem,
    jpeg_size,
    split_name,
)

GOOD = jpeg()
NONE = "not an image in JPEG PNG GIF WEBP BMP TIFF"


def member(name, data=GOOD, kind=tars.FILE, size=None, is_utf8=True):
    return tars.Member(name, kind, 512, len(data or b"") if size is None else size, data, is_utf8)


def taken(*members):
    """Ids, rejects and the number of other files of some members."""
    intake = ImageFilter("y.tar")
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
    assert taken(member("odd.jpg", None, tars.FOLDER)) == ([], [], 0)


@pytest.mark.parametrize(
    ("bad", "image_id", "reason"),
    [
        (member("a/1.jpg", b""), "a/1", "empty"),
        (member("1.jpg", b"abc"), "1", NONE),
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
            member("a\\xff.jpg", is_utf8=False),
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
    intake = ImageFilter("y.tar")
    first, second = jpeg(1), jpeg(2)
    members = [member("1.jpg", b"bad"), member("1.jpg", first), member("1.JPG", second)]
    (record,) = intake.records(members)
    assert record.jpeg == first
    assert intake.rejected == [
        ("y.tar/1", NONE),
        ("y.tar/1", "another image before it has the same id"),
    ]


def encoded(size=(31, 17), form="JPEG", **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(buffer, form, **options)
    return buffer.getvalue()


def with_size(data, width, height):
    """The same JPEG claiming another size in its frame header."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[place + 4 :]


def exif_thumbnail():
    """EXIF data that holds a smaller JPEG, frame header and all."""
    return b"Exif\0\0" + encoded((5, 5))


@pytest.mark.parametrize("size", [(1, 1), (31, 17), (500, 375), (70, 4000)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"optimize": True},
        {"exif": exif_thumbnail()},
        {"comment": b"c" * 999},
        {"icc_profile": b"p" * 70_000},
        {"restart_marker_blocks": 1},
    ],
)
def test_the_size_is_that_of_pillow(size, options):
    data = encoded(size, **options)
    assert jpeg_size(data) == Image.open(io.BytesIO(data)).size == size
    assert image_problem(data) is None


def test_fill_bytes_and_lonely_markers_are_passed_over():
    data = encoded()
    assert jpeg_size(data[:2] + b"\xff\xff\xff\x01" + data[2:]) == (31, 17)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"abc", NONE),
        (encoded(form="PPM"), NONE),
        (
            b"<html>503</html>",
            f"{NONE}, it looks like markup, perhaps an error page",
        ),
        (b"\xff\xd8", NONE),
        (b"\xff\xd8\xff\xd9", NONE),
        (encoded()[:20], NONE),
        (encoded().replace(b"\xff\xc0", b"\xff\xda", 1), NONE),
        (b"\xff\xd8" + bytes(5000), NONE),
        (b"\xff\xd8\xff\xe0\0\0" * 9, NONE),
    ],
)
def test_what_is_no_jpeg_is_refused_with_the_reason(data, reason):
    assert image_problem(data) == reason


def test_a_pixel_bomb_is_refused_by_its_header():
    bomb = with_size(encoded(), 30_000, 30_000)
    reason = "30000 x 30000 pixels; at least 1 and at most 178,956,970 are allowed"
    assert image_problem(bomb) == reason
    assert image_problem(with_size(encoded(), 12_000, 12_000)) is None  # a panorama
    assert "31 x 0 pixels" in str(image_problem(with_size(encoded(), 31, 0)))


def test_the_limit_is_where_pillow_refuses():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def test_any_bytes_get_an_answer():
    rng = random.Random(1)
    data = encoded()
    for _ in range(3000):
        damaged = bytearray(data[: rng.randrange(len(data))])
        for _ in range(rng.randrange(4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.choice([0, 255, rng.randrange(256)])
        image_problem(bytes(damaged))
        image_problem(b"\xff\xd8\xff" + rng.randbytes(30))
