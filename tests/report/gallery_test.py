"""Queries of different objects; thumbnails: small, upright, boxes where the object is."""

import base64
import io
import types

import numpy as np
import pytest
from PIL import Image

from ilias_jax.dataset.layout import ImageRecord
from ilias_jax.report import gallery
from ilias_jax.report.gallery import Picture, Placeholder, Thumbnail, choose_queries, thumbnail

BOX = (40, 80, 60, 120)  # pixels of the upright 200 x 400 picture


def upright() -> Image.Image:
    """Returns a blue 200 x 400 picture, red in BOX."""
    pixels = np.zeros((400, 200, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[80:200, 40:100] = (255, 0, 0)
    return Image.fromarray(pixels)


def encode(image: Image.Image, orientation: int | None = None) -> bytes:
    """Returns a JPEG with a comment, and an EXIF orientation if given."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, exif=exif, comment=b"by a person")
    return out.getvalue()


def decode(small: Thumbnail) -> Image.Image:
    """Returns the thumbnail's picture."""
    head, data = small.data_uri.split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def shown(picture: Picture) -> Thumbnail:
    """Returns the thumbnail of a picture that can be decoded."""
    small = thumbnail(picture)
    assert isinstance(small, Thumbnail)
    return small


# What is stored, so that the EXIF orientation turns it upright again.
STORED = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
    5: Image.Transpose.TRANSPOSE,
}


@pytest.mark.parametrize("orientation", STORED)
def test_box_lies_on_the_object_of_an_exif_rotated_picture(orientation: int) -> None:
    turn = STORED[orientation]
    stored = upright() if turn is None else upright().transpose(turn)
    small = shown(Picture(encode(stored, orientation), (BOX,), exif_transpose=True))
    assert (small.width, small.height) == (80, 160)
    assert small.boxes == ((20.0, 20.0, 30.0, 30.0),)
    pixels = np.asarray(decode(small), np.int32)
    assert pixels.shape == (160, 80, 3)
    red = np.argwhere(pixels[..., 0] > 128)
    np.testing.assert_allclose(red.min(0), (32, 16), atol=1)
    np.testing.assert_allclose(red.max(0) + 1, (80, 40), atol=1)


def test_exif_is_ignored_where_the_dataset_ignores_it() -> None:
    small = shown(Picture(encode(upright(), 6), (BOX,), exif_transpose=False))
    assert (small.width, small.height) == (80, 160)
    assert small.boxes == ((20.0, 20.0, 30.0, 30.0),)


def test_thumbnail_is_small_and_carries_no_metadata() -> None:
    image = upright().resize((900, 1800))
    decoded = decode(shown(Picture(encode(image, 1))))
    assert max(decoded.size) == 160
    assert not decoded.getexif() and "comment" not in decoded.info
    # A viewer must not turn a picture twice.
    turned = decode(shown(Picture(encode(image, 6), exif_transpose=True)))
    assert turned.size == (160, 80) and not turned.getexif()


def test_a_small_picture_is_not_enlarged() -> None:
    assert shown(Picture(encode(upright().resize((20, 30))))).width == 20


def test_boxes_are_clipped_to_the_picture() -> None:
    small = shown(Picture(encode(upright()), ((-50, 300, 100, 500), (0, 0, 999, 999))))
    assert small.boxes == ((0.0, 75.0, 25.0, 25.0), (0.0, 0.0, 100.0, 100.0))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    assert decode(shown(Picture(encode(upright().convert(mode))))).mode == "RGB"


def test_bytes_that_are_no_picture_give_a_reason_without_an_address() -> None:
    reason = thumbnail(Picture(b"not a picture"))
    assert reason == Placeholder("not a known picture format (13 bytes)")


def test_a_truncated_jpeg_gives_a_reason() -> None:
    small = thumbnail(Picture(encode(upright())[:-700]))
    assert isinstance(small, Placeholder)
    assert "truncated" in small.reason


def test_best_and_worst_queries_are_of_different_objects() -> None:
    ids = [f"{name}/query/Q{i}.jpg" for i, name in enumerate("aabbcd")]
    metrics = types.SimpleNamespace(aps=np.array([9.0, 1.0, 9.0, 0.0, 5.0, 3.0]), query_ids=ids)
    chosen = choose_queries(metrics, 2)
    assert chosen == [("best", 0), ("best", 2), ("worst", 5), ("worst", 4)]


def test_results_are_the_records_behind_rows_of_several_files(monkeypatch) -> None:
    # Record numbers by file; "a/x" is a distractor although its name is that of the query's object.
    shards = [types.SimpleNamespace(split=split) for split in ("positive", "distractor")]
    ids = {"positive": {4: "a/4", 7: "b/7"}, "distractor": {2: "a/x", 3: "d/3", 9: "d/9"}}
    monkeypatch.setattr(gallery, "read_numbers", lambda shard: sorted(ids[shard.split]))

    class Dataset:
        def read_one(self, shard, number):
            boxes = ((0.0, 0.0, 1.0, 1.0),) if shard.split == "positive" else ()
            return ImageRecord(ids[shard.split][number], bytes([number]), boxes, number)

        def text_queries(self):
            return [types.SimpleNamespace(query_id="a/query/T.txt", text="a thing")]

    ranking = types.SimpleNamespace(
        query_ids=["a/query/T.txt"],
        indices=np.array([[2, 0, 4, 1]]),
        scores=np.array([[0.9, 0.8, 0.7, 0.6]], np.float32),
    )
    metrics = types.SimpleNamespace(aps=np.array([50.0]), query_ids=ranking.query_ids)
    files = types.SimpleNamespace(paths=shards)
    (entry,) = gallery.make_gallery(
        {"text_to_image": metrics},
        {"text_to_image": ranking},
        types.SimpleNamespace(positive_ids=["a/4", "b/7"]),
        Dataset(),
        types.SimpleNamespace(
            database=files,
            database_shards=shards,
            images={"image_query": types.SimpleNamespace(paths=[])},
            shards={"image_query": []},
        ),
        types.SimpleNamespace(gallery_queries=1, gallery_results=3),
    )
    assert (entry.group, entry.text, entry.picture) == ("best", "a thing", None)
    assert (entry.ap, entry.num_positives) == (50.0, 1)
    shown = [(one.rank, one.image_id, one.is_positive) for one in entry.results]
    assert shown == [(1, "a/x", False), (2, "a/4", True), (3, "d/9", False)]
    assert [one.picture.jpeg for one in entry.results] == [b"\x02", b"\x04", b"\x09"]
    assert [len(one.picture.boxes) for one in entry.results] == [0, 1, 0]
    np.testing.assert_array_equal([one.score for one in entry.results], ranking.scores[0, :3])
