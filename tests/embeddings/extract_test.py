"""Extraction: every image's own embedding under its id, corrupt ones apart, whatever the devices."""

import io
import logging
import pathlib
import re
from collections.abc import Sequence

import inventories
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_reader import read
from etils import epath
from PIL import Image

from ilias_jax.config import BenchmarkConfig, DatasetConfig, EmbedConfig, ModelConfig
from ilias_jax.dataset import layout, shards
from ilias_jax.dataset.layout import IMAGE_SPLITS, ImageRecord, TextRecord, follows_exif
from ilias_jax.dataset.reader import IliasDataset, Subset
from ilias_jax.embeddings.extract import EmbeddedDataset, embed_dataset
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.model import Model, Preprocessing
from ilias_jax.preprocessing.decode import decode, resize
from ilias_jax.profiling import Timings

PREPROCESSING = Preprocessing(64, 16, mean=(0.1, 0.5, 0.9), std=(0.2, 0.4, 0.6))


def embed_images(weights: jax.Array, pixels: jax.Array, grid: jax.Array) -> jax.Array:
    """Sums of the normalised colours and the grid: known by construction."""
    colors = pixels.reshape(*pixels.shape[:2], -1, 3).sum(axis=(1, 2)) / 4096
    return jnp.concatenate([colors, grid.astype(jnp.float32)], axis=1) * weights


def model(weight: float = 1.0) -> Model:
    def tokenize(texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), ord(text[0])] for text in texts], np.int32)

    return Model(
        name="sums",
        parameters=np.full(5, weight, np.float32),
        preprocessing=PREPROCESSING,
        embed_images=embed_images,
        embed_texts=lambda weights, tokens: tokens.astype(jnp.float32) * weights[:2],
        tokenize=tokenize,
        fingerprint={"weight": weight},
    )


def expected_vector(record: ImageRecord, exif_transpose: bool) -> np.ndarray:
    """Slow oracle of one image."""
    pixels = resize(decode(record.jpeg, exif_transpose), 64)
    normal = (pixels / 255 - np.array(PREPROCESSING.mean)) / np.array(PREPROCESSING.std)
    raw = [*normal.sum(axis=(0, 1)) / 4096, -(-pixels.shape[0] // 16), -(-pixels.shape[1] // 16)]
    return np.array(raw) / np.linalg.norm(raw)


def extract(
    data: pathlib.Path,
    folder: pathlib.Path,
    *,
    subset: Subset = "full",
    num_devices: int = 1,
    weight: float = 1.0,
    timings: Timings | None = None,
    canvas: int = 200,
) -> EmbeddedDataset:
    config = BenchmarkConfig(
        DatasetConfig(data_dir=str(data), subset=subset),
        ModelConfig(name="sums"),
        embed=EmbedConfig(
            batch_size_per_device=3, num_buckets=2, canvas=canvas, storage_dtype="float32"
        ),
    )
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    dataset = IliasDataset(epath.Path(data), subset)
    return embed_dataset(
        dataset, model(weight), mesh, config, epath.Path(folder), timings or Timings()
    )


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_dataset(
    data_dir: pathlib.Path, query: bytes, positive: bytes, distractors: list[list[bytes]]
) -> None:
    """A dataset of one object, and distractors by shard."""
    counts = {
        "image_query": [
            shards.write_image_shard(
                data_dir, "image_query", 0, 1, [ImageRecord("a/query/Q0.jpg", query)]
            )
        ],
        "positive": [
            shards.write_image_shard(
                data_dir, "positive", 0, 1, [ImageRecord("a/pos/P0.jpg", positive)]
            )
        ],
        "distractor": [
            shards.write_image_shard(
                data_dir,
                "distractor",
                i,
                len(distractors),
                [ImageRecord(f"{i}.tar/{j}", data) for j, data in enumerate(shard)],
            )
            for i, shard in enumerate(distractors)
        ],
    }
    folder = layout.images_folder(data_dir)
    shards.write_metadata(folder, shards.image_features(), counts, "images")
    texts = {"text_query": [shards.write_text_shard(data_dir, [TextRecord("a/query/T0.txt", "a")])]}
    folder = layout.texts_folder(data_dir)
    shards.write_metadata(folder, shards.text_features(), texts, "texts")


def test_every_image_has_its_own_embedding(
    small_world: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    timings = Timings()
    embedded = extract(small_world, tmp_path, num_devices=2, timings=timings)
    dataset = IliasDataset(epath.Path(small_world))
    for split in IMAGE_SPLITS:
        records = [
            record
            for shard in dataset.shards(split)
            for record in dataset.read(shard, lambda record: record, 1)
        ]
        found = embedded.images[split]
        assert found.ids() == [record.image_id for record in records]
        expected = [expected_vector(record, follows_exif(split)) for record in records]
        np.testing.assert_allclose(found.vectors(), expected, atol=1e-5)
    assert timings.stages["embed_images"].items == 8 + 14 + 40
    database = embedded.images["positive"].ids() + embedded.images["distractor"].ids()
    assert embedded.database.ids() == database
    assert [shard.split for shard in embedded.database_shards] == ["positive"] + 3 * ["distractor"]
    assert embedded.texts is not None
    for query, vector in zip(dataset.text_queries(), embedded.texts.vectors(), strict=True):
        raw = np.array([len(query.text), ord(query.text[0])])
        np.testing.assert_allclose(vector, raw / np.linalg.norm(raw), atol=1e-6)


def test_the_number_of_devices_changes_no_bit(
    small_world: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    one, two = (extract(small_world, tmp_path / str(count), num_devices=count) for count in (1, 2))
    for split in IMAGE_SPLITS:
        for path, other in zip(one.images[split].paths, two.images[split].paths, strict=True):
            a, b = read(path), read(other)
            assert (a.ids, a.fingerprint) == (b.ids, b.fingerprint)
            np.testing.assert_array_equal(a.vectors, b.vectors)


def test_it_does_not_matter_who_resizes(small_world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """On the host, on the device, or some here and some there (pictures have 160 to 500 pixels)."""
    on_host, *others = (
        extract(small_world, tmp_path / str(canvas), canvas=canvas).database.vectors()
        for canvas in (0, 64, 300, 512)
    )
    for found in others:
        np.testing.assert_allclose(found, on_host, atol=1e-5)


def test_a_second_run_embeds_nothing_and_other_weights_all(
    small_world: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    extract(small_world, tmp_path)
    before = contents(tmp_path)
    again, other = Timings(), Timings()
    extract(small_world, tmp_path, timings=again)
    assert contents(tmp_path) == before
    assert [stage.items for stage in again.stages.values()] == [0, 0]
    assert [stage.skipped for stage in again.stages.values()] == [62, 6]
    extract(small_world, tmp_path, weight=2.0, timings=other)
    assert [stage.items for stage in other.stages.values()] == [62, 6]
    assert len(list(tmp_path.iterdir())) == 2  # a folder for each model


def test_a_corrupt_distractor_is_put_aside(tmp_path: pathlib.Path) -> None:
    good = [jpeg(seed) for seed in range(4)]
    cut = jpeg(9)[:-100]
    write_dataset(tmp_path, good[0], good[1], [[cut, good[2], cut], [b"junk"], [good[3]]])
    embedded = extract(tmp_path, tmp_path / "embeddings")
    database = embedded.database
    assert database.ids() == ["a/pos/P0.jpg", "0.tar/1", "2.tar/0"]
    assert [name for name, _ in database.rejected()] == ["0.tar/0", "0.tar/2", "1.tar/0"]
    reasons = [reason for _, reason in database.rejected()]
    assert "truncated" in reasons[0] and "UnidentifiedImageError" in reasons[2]
    assert [part.numbers.tolist() for part in map(read, database.paths)] == [[0], [1], [], [0]]
    expected = [expected_vector(ImageRecord("", data), False) for data in good[1:]]
    np.testing.assert_allclose(database.vectors(), expected, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(list(database.blocks(2))), database.vectors())


@pytest.mark.parametrize("bad", ["query", "pos"])
def test_a_corrupt_core_image_stops_the_run(tmp_path: pathlib.Path, bad: str) -> None:
    images = {"query": jpeg(0), "pos": jpeg(1)} | {bad: jpeg(9)[:-100]}
    write_dataset(tmp_path, images["query"], images["pos"], [[jpeg(2)]])
    with pytest.raises(UserError, match=f"a/{bad}/.*cannot be decoded: .*truncated"):
        extract(tmp_path, tmp_path / "embeddings")
    left = contents(tmp_path / "embeddings") if bad == "pos" else {}
    assert all(re.fullmatch(r"image_query-.*\.safetensors", name) for name in left)


def test_a_subset_may_leave_a_shard_empty(tmp_path: pathlib.Path) -> None:
    good = [jpeg(seed) for seed in range(5)]
    write_dataset(tmp_path, good[0], good[1], [[good[2], good[3]], [good[4]]])
    (tmp_path / "image_ids").mkdir()
    (tmp_path / "image_ids" / "mini_ilias_yfcc100m_ids.txt").write_text("1.tar/0\n")
    embedded = extract(tmp_path, tmp_path / "embeddings", subset="mini")
    assert embedded.database.ids() == ["a/pos/P0.jpg", "1.tar/0"]
    assert embedded.database.vectors().shape == (2, 5)
    full = extract(tmp_path, tmp_path / "embeddings")
    assert len(full.database.ids()) == 4  # never the subset's files


def test_mini_gives_the_same_files_with_and_without_inventories(tmp_path: pathlib.Path) -> None:
    good = [jpeg(seed) for seed in range(7)]
    data = tmp_path / "data"
    write_dataset(data, good[0], good[1], [good[2:5], [jpeg(9)[:-100], good[5]], [good[6]]])
    (data / "image_ids").mkdir()
    path = data / "image_ids" / "mini_ilias_yfcc100m_ids.txt"
    path.write_text("0.tar/1\n1.tar/0\n1.tar/1\n")
    inventories.remove(data)
    slow = extract(data, tmp_path / "slow", subset="mini")
    inventories.write(data)
    fast = extract(data, tmp_path / "fast", subset="mini", num_devices=2)
    assert fast.database.ids() == ["a/pos/P0.jpg", "0.tar/1", "1.tar/1"]
    assert [name for name, _ in fast.database.rejected()] == ["1.tar/0"]
    assert [part.numbers.tolist() for part in map(read, fast.database.paths)] == [[0], [1], [1], []]
    assert slow.database.ids() == fast.database.ids()
    assert contents(tmp_path / "fast") == contents(tmp_path / "slow")


def test_a_replaced_shard_is_embedded_again(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path, jpeg(0), jpeg(1), [[jpeg(2)], [jpeg(3)]])
    extract(tmp_path, tmp_path / "embeddings")
    write_dataset(tmp_path, jpeg(0), jpeg(1), [[jpeg(2)], [jpeg(4), jpeg(5)]])
    timings = Timings()
    with caplog.at_level(logging.WARNING):
        embedded = extract(tmp_path, tmp_path / "embeddings", timings=timings)
    assert embedded.database.ids() == ["a/pos/P0.jpg", "0.tar/0", "1.tar/0", "1.tar/1"]
    stage = timings.stages["embed_images"]
    assert (stage.items, stage.skipped) == (2, 3)
    assert "is of another source; embedding again" in caplog.text


@pytest.mark.parametrize("state", ["replaced", "removed"])
def test_a_shard_that_changes_while_it_is_read_stops_the_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """What was read of it may be of either file, and is not written."""
    write_dataset(tmp_path, jpeg(0), jpeg(1), [[jpeg(2)], [jpeg(3), jpeg(4)]])
    read = IliasDataset.read

    def meanwhile(self, shard, transform, num_threads):
        yield from read(self, shard, transform, num_threads)
        if shard.file_name == "ilias-distractor.array_record-00001-of-00002":
            path = layout.images_folder(tmp_path) / shard.file_name
            path.unlink()
            if state == "replaced":
                records = [ImageRecord("1.tar/0", jpeg(5))]
                shards.write_image_shard(tmp_path, "distractor", 1, 2, records)

    monkeypatch.setattr(IliasDataset, "read", meanwhile)
    message = f"ilias-distractor.array_record-00001-of-00002 was {state} while it was read"
    with pytest.raises(UserError, match=message):
        extract(tmp_path, tmp_path / "embeddings")
    assert not list((tmp_path / "embeddings").rglob("distractor-00001-*"))


@pytest.mark.parametrize("bad", [b"", b"junk", jpeg(9)[:-100], jpeg(9)[:20]])
def test_a_rejected_image_is_named_in_the_log(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, bad: bytes
) -> None:
    write_dataset(tmp_path, jpeg(0), jpeg(1), [[jpeg(2), bad]])
    with caplog.at_level(logging.WARNING):
        embedded = extract(tmp_path, tmp_path / "embeddings")
    assert embedded.database.ids() == ["a/pos/P0.jpg", "0.tar/0"]
    assert [name for name, _ in embedded.database.rejected()] == ["0.tar/1"]
    assert "0.tar/1 is rejected: " in caplog.text
