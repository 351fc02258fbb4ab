"""Batches: every item exactly once, in few shapes, padding marked."""

import numpy as np
import pytest

from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.batching import (
    Batch,
    Item,
    Packer,
    batch_items,
    batch_rows,
    bucket_shapes,
)
from ilias_jax.preprocessing.decode import CanvasImage, Patches, resized_size

CHANNELS = 12


def items(count: int, max_side: int, seed: int = 0) -> list[Item]:
    """Images of one row or column up to max_side x max_side, their pixels told by their row."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(count):
        short = int(rng.integers(1, max_side + 1))
        pixels = np.full((max_side * short, CHANNELS), row + 1, np.uint8)
        made.append((row, Patches(pixels, (2 * max_side, 2 * short))))
    return made


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 64])
@pytest.mark.parametrize("num_buckets", [1, 3, 8])
def test_every_item_comes_once_with_its_own_content(batch_size: int, num_buckets: int) -> None:
    given = items(41, 8)
    shapes = bucket_shapes(Preprocessing(8, 1), num_buckets)
    seen: list[int] = []
    for batch in batch_items(given, shapes, batch_size):
        patches, sizes = batch.arrays
        assert patches.shape == (batch_size, patches.shape[1], CHANNELS)
        assert patches.dtype == np.uint8 and sizes.dtype == np.int32
        assert patches.shape[1:2] in shapes and batch.rows.dtype == np.int64
        np.testing.assert_array_equal(batch.mask, batch.rows >= 0)
        for row, pixels, size in zip(batch.rows, patches, sizes, strict=True):
            if row < 0:
                assert row == -1 and tuple(size) == (1, 1) and not pixels.any()
                continue
            item = given[row][1]
            count = len(item.pixels)
            np.testing.assert_array_equal(pixels[:count], item.pixels)
            assert not pixels[count:].any() and tuple(size) == item.size
            assert patches.shape[1] == min(n for (n,) in shapes if n >= count)
            seen.append(int(row))
    assert sorted(seen) == list(range(41))


def pictures(count: int) -> list[Item]:
    """Pictures of many sizes, their pixels told by their row, of 1 to 16 tokens."""
    rng = np.random.default_rng(5)
    made = []
    for row in range(count):
        height, width = rng.integers(1, 33, 2).tolist()
        pixels = np.full((height, width, 3), row + 1, np.uint8)
        size = (64, int(rng.integers(1, 65)))
        made.append((row, CanvasImage(pixels, size, (4 * -(-size[1] // 16),), canvas=32)))
    return made


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_every_picture_comes_once_in_the_corner_of_its_canvas(batch_size: int) -> None:
    given = pictures(41)
    seen: list[int] = []
    for batch in batch_items(given, ((8,), (16,)), batch_size):
        canvas, source, size, shape = batch.arrays
        length = shape.shape[1]
        assert canvas.shape == (batch_size, 32, 32, 3) and canvas.dtype == np.uint8
        assert source.dtype == size.dtype == np.int32 and shape.nbytes == 0
        assert batch.computed_tokens == batch_size * length
        assert batch.real_tokens == sum(given[row][1].extent[0] for row in batch.rows[batch.mask])
        for place, row in enumerate(batch.rows):
            if row < 0:
                assert tuple(source[place]) == tuple(size[place]) == (1, 1)
                assert not canvas[place, 0, 0].any()
                continue
            item = given[row][1]
            height, width = source[place]
            np.testing.assert_array_equal(canvas[place, :height, :width], item.pixels)
            assert tuple(size[place]) == item.size
            assert length == min(n for n in (8, 16) if n >= item.extent[0])
            seen.append(int(row))
    assert sorted(seen) == list(range(41))


def tokens(count: int) -> Patches:
    return Patches(np.zeros((count, 3), np.uint8), (1, 1))


def all_rows(batches: list[Batch]) -> list[tuple[int, int]]:
    return [
        (int(owner), int(row))
        for batch in batches
        for owner, row in zip(batch.owners, batch.rows, strict=True)
        if row >= 0
    ]


def test_items_of_several_owners_share_batches_and_keep_their_owner() -> None:
    packer = Packer(bucket_shapes(Preprocessing(8, 1), 2), 5)
    given = [(owner, item) for owner in range(6) for item in items(4, 8, seed=owner)]
    batches = [batch for owner, item in given for batch in packer.add(item, owner)]
    batches += packer.flush()
    assert sorted(all_rows(batches)) == sorted((owner, row) for owner, (row, _) in given)
    long = sum(image.extent[0] > 32 for _, (_, image) in given)
    assert len(batches) == -(-long // 5) + -(-(24 - long) // 5)  # only the last ones are padded
    assert any(len(set(batch.owners.tolist())) > 1 for batch in batches[:-2])
    assert list(packer.flush()) == []


def test_items_of_another_kind_have_batches_of_their_own() -> None:
    packer = Packer(((64,),), 4)
    whole, patches = pictures(4)[0], items(2, 8)[0]
    floats = 1, Patches(patches[1].pixels.astype(np.float32), patches[1].size)
    for item in (whole, patches, floats, whole, patches):
        assert list(packer.add(item)) == []
    found = [(len(b.arrays), b.arrays[0].dtype, int(b.mask.sum())) for b in packer.flush()]
    assert found == [(4, np.uint8, 2), (2, np.uint8, 2), (2, np.float32, 1)]


def test_a_rare_length_does_not_wait_for_ever() -> None:
    packer, rare = Packer(((1,), (4,)), 2, patience=3), (7, tokens(4))
    common = (8, tokens(1))
    assert list(packer.add(rare)) == []
    batches = [list(packer.add(common)) for _ in range(6)]
    # Six others may come; with the sixth there are three full batches and, at last, the rare one.
    assert [len(made) for made in batches] == [0, 1, 0, 1, 0, 2]
    assert batches[-1][1].rows.tolist() == [7, -1]


def test_only_the_last_batch_of_a_length_is_padded() -> None:
    shapes = bucket_shapes(Preprocessing(8, 1), 4)
    padded = [
        batch.arrays[0].shape[1]
        for batch in batch_items(items(100, 8), shapes, 7)
        if not batch.mask.all()
    ]
    assert 0 < len(padded) == len(set(padded)) <= 4


def test_batches_are_not_held_back() -> None:
    """A full batch comes before its source is read on, so that memory stays bounded."""
    read = 0

    def source():
        nonlocal read
        for item in items(20, 4):
            read += 1
            yield item

    first = next(iter(batch_items(source(), bucket_shapes(Preprocessing(4, 1), 1), 5)))
    assert first.mask.all() and read == 5


def test_no_items_give_no_batch() -> None:
    assert list(batch_items([], ((4,), (8,)), 3)) == []
    assert list(batch_rows(np.zeros((0, 5), np.int32), 3)) == []


def test_an_image_beyond_the_longest_length_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(batch_items([(0, tokens(17))], ((8,), (16,)), 2))


@pytest.mark.parametrize("max_side", [1, 2, 7, 8, 32, 52])
@pytest.mark.parametrize("patch_size", [1, 14, 16])
def test_buckets_are_few_rising_whole_rows_and_hold_every_image(
    max_side: int, patch_size: int
) -> None:
    for num_buckets in (1, 2, 3, 4, 8, 12, 100):
        longest = max_side * patch_size - patch_size // 2
        shapes = bucket_shapes(Preprocessing(longest, patch_size), num_buckets)
        lengths = [length for (length,) in shapes]
        assert len(lengths) == min(num_buckets, max_side)
        assert list(lengths) == sorted(set(lengths)) and lengths[-1] == max_side**2
        assert all(length % max_side == 0 and length > 0 for length in lengths)


@pytest.mark.parametrize("resolution, patch_size", [(384, 16), (384, 14), (512, 16), (724, 14)])
def test_what_cameras_take_is_not_padded(resolution: int, patch_size: int) -> None:
    shapes = bucket_shapes(Preprocessing(resolution, patch_size), 4)
    sizes = [resized_size(*size, resolution) for size in ((1, 1), (4, 3), (3, 2), (16, 9))]
    assert set(shapes) == {
        (-(-width // patch_size) * -(-height // patch_size),) for width, height in sizes
    }
    canvases = bucket_shapes(Preprocessing(resolution, 1, whole=True), 4)
    assert set(canvases) == {*sizes, *(size[::-1] for size in sizes)}


def test_more_buckets_leave_no_wide_step() -> None:
    how = Preprocessing(384, 16)
    assert bucket_shapes(how, 8) == tuple((24 * n,) for n in (4, 8, 11, 14, 16, 18, 21, 24))
    # Two steps are 4 wide; the higher one is halved first.
    assert bucket_shapes(how, 9)[:3] == ((24 * 4,), (24 * 6,), (24 * 8,))
    assert bucket_shapes(how, 10)[:4] == ((24 * 2,), (24 * 4,), (24 * 6,), (24 * 8,))
    assert bucket_shapes(how, 100) == tuple((24 * n,) for n in range(1, 25))


def test_a_whole_image_lies_in_the_corner_of_the_smallest_canvas_that_holds_it() -> None:
    preprocessing = Preprocessing(12, 1, whole=True)
    canvases = bucket_shapes(preprocessing, 6)
    assert len(canvases) == len(set(canvases)) == 11  # all but the square one in two orientations
    rng, given = np.random.default_rng(3), []
    for row in range(60):
        size = (12, int(rng.integers(1, 13)))[:: rng.choice([1, -1])]
        given.append((row, Patches(rng.integers(1, 256, (*size, 3)).astype(np.uint8), size)))
    seen = []
    for batch in batch_items(given, canvases, 4):
        images, sizes = batch.arrays
        for row, image, (height, width) in zip(batch.rows, images, sizes, strict=True):
            if row < 0:
                assert not image.any() and (height, width) == (1, 1)
                continue
            one = given[row][1]
            assert (height, width) == one.size
            np.testing.assert_array_equal(image[:height, :width], one.pixels)
            assert np.count_nonzero(image) == one.pixels.size
            holding = [(h * w, h) for h, w in canvases if h >= height and w >= width]
            assert image.shape[0] * image.shape[1] == min(holding)[0]
            seen.append(int(row))
        assert batch.computed_tokens == images[..., 0].size
        assert batch.real_tokens == sum(
            int(np.prod(given[row][1].size)) for row in batch.rows[batch.mask]
        )
    assert sorted(seen) == list(range(60))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 11, 30])
def test_rows_come_once_in_order_with_the_first_row_as_padding(batch_size: int) -> None:
    array = np.arange(22, dtype=np.int32).reshape(11, 2)
    batches = list(batch_rows(array, batch_size))
    for batch in batches:
        (part,) = batch.arrays
        assert part.shape == (batch_size, 2) and part.dtype == np.int32
        np.testing.assert_array_equal(part[batch.mask], array[batch.rows[batch.mask]])
        np.testing.assert_array_equal(part[~batch.mask], part[:1].repeat((~batch.mask).sum(), 0))
    rows = np.concatenate([batch.rows for batch in batches])
    np.testing.assert_array_equal(rows[rows >= 0], np.arange(11))
    assert set(rows[11:]) <= {-1} and all(batch.mask.all() for batch in batches[:-1])
