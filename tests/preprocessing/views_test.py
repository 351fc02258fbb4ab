"""Views of an image: torch's pixels, the toolkit's embeddings, and nothing of it unless asked."""

import dataclasses
import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import view_cases as cases
from etils import epath
from PIL import Image

from ilias_jax.config import BenchmarkConfig, DatasetConfig, EmbedConfig, ModelConfig, ViewsConfig
from ilias_jax.dataset import layout, shards
from ilias_jax.dataset.layout import ImageRecord, TextRecord
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embeddings.extract import EmbeddedDataset, embed_dataset
from ilias_jax.embeddings.file import read_header
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.model import Model, Preprocessing
from ilias_jax.preprocessing import views
from ilias_jax.preprocessing.decode import jpeg_to_patches
from ilias_jax.profiling import Timings

VALUES = pathlib.Path(__file__).parents[1] / "data" / "views.npz"
HOW = Preprocessing(cases.RESOLUTION, cases.PATCH, cases.MEAN, cases.STD, max_scale=1.414)


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    with np.load(VALUES, allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize("shape", cases.SHAPES)
@pytest.mark.parametrize("scale", [0.707, 1.414])
def test_scaling_is_torchs_bicubic(values, shape, scale):
    found = views.rescale(cases.array(shape), scale)
    expected = values.get(f"scale {scale} {shape[0]}x{shape[1]}")
    if expected is None:  # a side of less than a pixel, which torch refuses
        assert min(shape) == 1 and min(found.shape[:2]) == 1
        return
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("shape", cases.SHAPES)
@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_is_torchvisions_within_its_frame(values, shape, angle):
    found = views.rotate(cases.array(shape), angle)
    expected = values[f"rotate {angle} {shape[0]}x{shape[1]}"]
    # torchvision finds the places in float32 and so mixes in a few millionths of the neighbours.
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_a_quarter_turn_of_a_square_loses_nothing():
    square = cases.array((17, 17))
    np.testing.assert_array_equal(views.rotate(views.rotate(square, 90), 270), square)
    wide = cases.array((12, 20))
    back = views.rotate(views.rotate(wide, 90), 270)
    np.testing.assert_array_equal(back[:, 4:16], wide[:, 4:16])
    assert not back[:, :4].any() and not back[:, 16:].any()  # left the frame, as in the toolkit


@pytest.mark.parametrize(("old", "new"), cases.NEAREST)
def test_the_masks_resize_is_torchs_nearest(values, old, new):
    found = views.resize_nearest(cases.mask(old), new)
    np.testing.assert_array_equal(found, values[f"nearest {old} {new}"])


def test_boxes_by_hand():
    boxes = [(2.9, 1.0, 3.0, 2.0), (4.0, 2.0, 3.0, 9.0)]
    assert views.union_of_boxes(boxes, (8, 6)) == (2, 1, 7, 6)  # 2.9 is cut to 2, 11 to 6
    assert views.union_of_boxes([(-3.0, -1.0, 5.0, 4.0)], (8, 6)) == (0, 0, 2, 3)
    mask = views.box_mask(boxes, (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = expected[2:6, 4:7] = True
    np.testing.assert_array_equal(mask, expected)
    assert views.box_mask([(-3.0, -1.0, 5.0, 4.0)], (6, 8)).sum() == 2 * 3
    for empty in ((8.0, 0.0, 3.0, 3.0), (-5.0, 0.0, 5.0, 3.0), (1.0, 1.0, 0.0, 3.0)):
        with pytest.raises(views.BoxError, match="leave nothing of its 8 x 6 pixels"):
            views.union_of_boxes([empty], (8, 6))


def test_with_both_the_mask_is_cropped_like_the_image():
    (data, _), boxes = cases.pictures()[0], [(0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 10.0, 10.0)]
    both = ViewsConfig(crop_to_box=True, mask_outside_box=True)
    (found,) = views.jpeg_to_views(data, boxes, HOW, both, exif_transpose=False)
    rows = columns = cases.RESOLUTION // cases.PATCH
    pixels = found.pixels.reshape(rows, columns, cases.PATCH, cases.PATCH, 3)
    pixels = pixels.transpose(0, 2, 1, 3, 4).reshape(cases.RESOLUTION, cases.RESOLUTION, 3)
    third = cases.RESOLUTION // 3
    inside = np.zeros((cases.RESOLUTION, cases.RESOLUTION), bool)
    inside[:third, :third] = inside[2 * third :, 2 * third :] = True
    assert not pixels[~inside].any() and pixels[inside].all()


def test_without_views_the_bytes_are_those_of_the_plain_path():
    for data, boxes in cases.pictures():
        (found,) = views.jpeg_to_views(data, boxes, HOW, ViewsConfig(), exif_transpose=False)
        plain = jpeg_to_patches(data, HOW.resolution, HOW.patch_size, exif_transpose=False)
        assert found.size == plain.size and found.pixels.dtype == np.uint8
        np.testing.assert_array_equal(found.pixels, plain.pixels)


def embed_images(weights: jax.Array, pixels: jax.Array, grid: jax.Array) -> jax.Array:
    """Sums over patches of tanh(patch @ weights); patches beyond the image are 0 and add nothing."""
    assert pixels.dtype == jnp.float32
    del grid
    return jnp.tanh(jnp.matmul(pixels, weights, precision="highest")).sum(axis=1)


def model(how: Preprocessing = HOW) -> Model:
    return Model(
        name="product",
        parameters=cases.weights(),
        preprocessing=how,
        embed_images=embed_images,
        embed_texts=lambda weights, tokens: tokens.astype(jnp.float32),
        tokenize=lambda texts: np.ones((len(texts), 2), np.int32),
        fingerprint={"name": "product"},
    )


def write_dataset(folder: pathlib.Path, boxes_of_first: list | None = None) -> pathlib.Path:
    """The pictures as queries, as positives, and (without boxes) as distractors."""
    records: dict[str, list[ImageRecord]] = {"image_query": [], "positive": [], "distractor": []}
    for number, (data, boxes) in enumerate(cases.pictures()):
        own = tuple(boxes_of_first if number == 0 and boxes_of_first is not None else boxes)
        records["image_query"].append(ImageRecord(f"thing/query/Q{number}.jpg", data, own))
        records["positive"].append(ImageRecord(f"thing/pos/P{number}.jpg", data, own))
        records["distractor"].append(ImageRecord(f"a.tar/{number}", data))
    counts = {
        split: [shards.write_image_shard(folder, split, 0, 1, items)]
        for split, items in records.items()
    }
    shards.write_metadata(layout.images_folder(folder), shards.image_features(), counts, "views")
    texts = {
        "text_query": [shards.write_text_shard(folder, [TextRecord("thing/query/T.txt", "a")])]
    }
    shards.write_metadata(layout.texts_folder(folder), shards.text_features(), texts, "texts")
    return folder


def extract(
    data: pathlib.Path,
    folder: pathlib.Path,
    options: dict,
    *,
    num_devices: int = 1,
    batch: int = 3,
    how: Preprocessing = HOW,
    timings: Timings | None = None,
) -> EmbeddedDataset:
    config = BenchmarkConfig(
        DatasetConfig(data_dir=str(data)),
        ModelConfig(name="product"),
        views=ViewsConfig(**options),
        embed=EmbedConfig(
            batch_size_per_device=batch, num_buckets=3, canvas=128, storage_dtype="float32"
        ),
    )
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    dataset = IliasDataset(epath.Path(data))
    return embed_dataset(
        dataset, model(how), mesh, config, epath.Path(folder), timings or Timings()
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_dataset(tmp_path_factory.mktemp("views"))


@pytest.mark.parametrize("name", cases.OPTIONS)
def test_embeddings_are_the_toolkits(values, dataset, tmp_path, name):
    """From stored bytes to averaged embeddings, through batches of mixed views."""
    options = cases.OPTIONS[name]
    embedded = extract(dataset, tmp_path, options)
    expected = values[f"embeddings {name}"]
    for split in ("image_query", "positive"):
        np.testing.assert_allclose(embedded.images[split].vectors(), expected, atol=2e-5)
    boxes = {"crop_to_box", "mask_outside_box"}
    without = {key: value for key, value in options.items() if key not in boxes}
    alike = next(key for key, other in cases.OPTIONS.items() if other == without)
    found = embedded.images["distractor"].vectors()
    np.testing.assert_allclose(found, values[f"embeddings {alike}"], atol=2e-5)


def test_devices_change_no_bit_and_batches_hardly_any(dataset, tmp_path):
    options = cases.OPTIONS["mask, scales and rotations"]
    one = extract(dataset, tmp_path / "one", options)
    two = extract(dataset, tmp_path / "two", options, num_devices=2)
    other = extract(dataset, tmp_path / "other", options, batch=7)
    for split in ("image_query", "distractor"):
        vectors = one.images[split].vectors()
        np.testing.assert_array_equal(two.images[split].vectors(), vectors)
        np.testing.assert_allclose(other.images[split].vectors(), vectors, atol=1e-6)


def test_few_shapes_are_compiled_whatever_the_views(dataset, tmp_path, monkeypatch):
    shapes = set()
    plain = embed_images

    def noting(weights, pixels, grid):
        shapes.add(pixels.shape)
        return plain(weights, pixels, grid)

    monkeypatch.setitem(globals(), "embed_images", noting)
    extract(dataset, tmp_path, cases.OPTIONS["both"])
    assert 1 < len(shapes) <= 3  # num_buckets


def test_off_means_the_fingerprint_of_before(dataset, tmp_path):
    embedded = extract(dataset, tmp_path, {})
    for split in ("image_query", "positive", "distractor"):
        fingerprint = read_header(embedded.images[split].paths[0]).fingerprint
        assert set(fingerprint) == {
            *("model", "preprocessing", "revision", "canvas", "storage_dtype", "subset", "source")
        }
        assert set(fingerprint["preprocessing"]) == {"resolution", "patch_size", "mean", "std"}
        assert set(fingerprint["source"]) == {"file", "num_bytes", "num_records", "digest"}
    plain = extract(dataset, tmp_path / "plain", {}, how=dataclasses.replace(HOW, max_scale=1.0))
    assert plain.images["positive"].paths[0].parent.name == (
        embedded.images["positive"].paths[0].parent.name
    )
    for split in ("image_query", "positive", "distractor"):
        assert plain.images[split].paths[0].read_bytes() == (
            embedded.images[split].paths[0].read_bytes()
        )


def test_other_views_are_embedded_anew_and_what_they_leave_alone_is_not(dataset, tmp_path):
    extract(dataset, tmp_path, {})
    skipped = {}
    for name, options in {
        "scales": {"scales": (1.0, 1.414)},
        "crop": {"crop_to_box": True},
        "mask of queries": {"mask_outside_box": True, "boxes_of": "image_query"},
        "again": {"crop_to_box": True},
    }.items():
        timings = Timings()
        extract(dataset, tmp_path, options, timings=timings)
        skipped[name] = timings.stages["embed_images"].skipped
        assert timings.stages["embed_text_query"].skipped == 1
    assert skipped == {
        "scales": 0,
        "crop": 5,  # the distractors
        "mask of queries": 10,  # and the positives
        "again": 15,
    }


def test_mended_boxes_are_embedded_anew(tmp_path):
    """The shard's own digest could miss it: boxes of a record in its middle have a fixed size."""
    data = write_dataset(tmp_path / "data")
    crop = cases.OPTIONS["crop"]
    before = extract(data, tmp_path / "e", crop)
    source = read_header(before.images["positive"].paths[0]).fingerprint["source"]
    vectors = before.images["positive"].vectors()
    after = extract(write_dataset(tmp_path / "mended", [(12, 5, 20, 15)]), tmp_path / "e", crop)
    again = read_header(after.images["positive"].paths[0]).fingerprint["source"]
    assert source["boxes"] != again["boxes"]
    changed = (after.images["positive"].vectors() != vectors).any(axis=1)
    assert changed.tolist() == [True, False, False, False, False]


def test_an_image_without_boxes_is_taken_whole(values, tmp_path):
    data = write_dataset(tmp_path / "data", [])
    embedded = extract(data, tmp_path / "e", cases.OPTIONS["crop"])
    found = embedded.images["image_query"].vectors()
    np.testing.assert_allclose(found[0], values["embeddings plain"][0], atol=2e-5)
    np.testing.assert_allclose(found[1:], values["embeddings crop"][1:], atol=2e-5)


def test_boxes_that_leave_nothing_stop_the_run(tmp_path):
    data = write_dataset(tmp_path / "data", [(40, 0, 5, 5)])
    with pytest.raises(
        UserError, match=r"thing/query/Q0.jpg has boxes that leave nothing of its 40 x 30 pixels"
    ):
        extract(data, tmp_path / "e", cases.OPTIONS["crop"])


def test_a_model_for_smaller_images_is_refused_before_any_work(dataset, tmp_path):
    how = dataclasses.replace(HOW, max_scale=1.0)
    with pytest.raises(UserError, match=r"views.scales=.*up to 1 times .*max_scale=1.414"):
        extract(dataset, tmp_path, cases.OPTIONS["scales"], how=how)
    assert not list(tmp_path.iterdir())


def test_exif_turns_the_image_before_its_boxes_are_read():
    data, _ = cases.pictures()[0]
    image = Image.open(io.BytesIO(data))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    crop = ViewsConfig(crop_to_box=True)
    boxes = [(10.0, 5.0, 20.0, 15.0)]
    (found,) = views.jpeg_to_views(turned.getvalue(), boxes, HOW, crop, exif_transpose=True)
    (expected,) = views.jpeg_to_views(data, boxes, HOW, crop, exif_transpose=True)
    np.testing.assert_array_equal(found.pixels, expected.pixels)
