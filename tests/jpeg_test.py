"""JPEG headers: sizes as Pillow has them, and what is no JPEG refused with the reason."""

import io
import random

import pytest
from PIL import Image

from ilias_jax.dataset import jpeg


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
    assert jpeg.size_of(data) == Image.open(io.BytesIO(data)).size == size
    assert jpeg.problem_of(data) is None


def test_fill_bytes_and_lonely_markers_are_passed_over():
    data = encoded()
    assert jpeg.size_of(data[:2] + b"\xff\xff\xff\x01" + data[2:]) == (31, 17)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"abc", "not a JPEG: it does not begin with FF D8"),
        (encoded(form="PNG"), "not a JPEG: it does not begin with FF D8, it looks like a PNG"),
        (encoded(form="GIF"), "not a JPEG: it does not begin with FF D8, it looks like a GIF"),
        (
            b"<html>503</html>",
            "not a JPEG: it does not begin with FF D8, it looks like markup, perhaps an error page",
        ),
        (b"\xff\xd8", "not a JPEG: it has no frame header"),
        (b"\xff\xd8\xff\xd9", "not a JPEG: it has no frame header"),
        (encoded()[:20], "not a JPEG: it has no frame header"),
        (encoded().replace(b"\xff\xc0", b"\xff\xda", 1), "not a JPEG: it has no frame header"),
        (b"\xff\xd8" + bytes(5000), "not a JPEG: it has no frame header"),
        (b"\xff\xd8\xff\xe0\0\0" * 9, "not a JPEG: it has no frame header"),
    ],
)
def test_what_is_no_jpeg_is_refused_with_the_reason(data, reason):
    assert jpeg.problem_of(data) == reason


def test_a_pixel_bomb_is_refused_by_its_header():
    bomb = with_size(encoded(), 30_000, 30_000)
    reason = "30000 x 30000 pixels; at least 1 and at most 178,956,970 are allowed"
    assert jpeg.problem_of(bomb) == reason
    assert jpeg.problem_of(with_size(encoded(), 12_000, 12_000)) is None  # a panorama
    assert "31 x 0 pixels" in str(jpeg.problem_of(with_size(encoded(), 31, 0)))


def test_the_limit_is_where_pillow_refuses():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert jpeg.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def test_any_bytes_get_an_answer():
    rng = random.Random(1)
    data = encoded()
    for _ in range(3000):
        damaged = bytearray(data[: rng.randrange(len(data))])
        for _ in range(rng.randrange(4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.choice([0, 255, rng.randrange(256)])
        jpeg.problem_of(bytes(damaged))
        jpeg.problem_of(b"\xff\xd8\xff" + rng.randbytes(30))
