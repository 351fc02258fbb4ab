"""Images of any aspect ratio through the whole extraction, beside one at a time, unpadded."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest
import shaped_pictures
from etils import epath

from ilias_jax.config import BenchmarkConfig, DatasetConfig, EmbedConfig, ModelConfig
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embeddings.extract import EmbeddedDataset, embed_dataset, images_forward
from ilias_jax.mesh import make_mesh
from ilias_jax.model import Model
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.layers import TransformerSize
from ilias_jax.models.load import tower_model
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.vit import VitConfig
from ilias_jax.preprocessing.decode import jpeg_to_patches
from ilias_jax.profiling import Timings

COUNT, RESOLUTION, PATCH = 120, 48, 8
GRID = RESOLUTION // PATCH
MOST_COMPILES = 8

SIGLIP = "vit_base_patch16_siglip_384.webli"
# One row of each way in which the towers differ from SigLIP's: tokens before the patches, rotary and
# learned positions, poolings.
FAMILIES = (
    "vit_base_patch16_clip_224.openai",
    "dinov2_vitb14_reg",
    "eva02_base_patch14_224.mim_in22k",
    "eva02_large_patch14_clip_336.merged2b",
    "vit_pe_core_base_patch16_224.fb",
    "dinov3_vitb16",
    "unicom_vit_base_patch16_224",
)


def shrunk(name: str) -> VitConfig:
    """The image tower of a row, with the sizes of these tests."""
    image = VARIANTS[name].architecture.image
    return dataclasses.replace(
        image,
        size=TransformerSize(48, 2, 96, 3),
        patch_size=PATCH,
        native_grid=5,
        map_heads=3 if image.map_heads else 0,
        head=image.head and dataclasses.replace(image.head, dim=40),
    )


@functools.cache
def model(name: str) -> Model:
    """An image tower with random weights, of 6 x 6 patches at most."""
    config = DualEncoderConfig(shrunk(name))
    rng = np.random.default_rng(1)
    parameters = {
        path: rng.normal(size=shape, scale=0.25).astype(np.float32)
        for path, shape in parameter_shapes(config, "image").items()
    }
    for path, value in parameters.items():
        if path.endswith((".variance", ".periods")):
            parameters[path] = 1 + np.abs(value)
    return tower_model("small", config, parameters, None, RESOLUTION, "float32", {})


@functools.cache
def pictures() -> tuple[bytes, ...]:
    """Sides of 1 to 160 pixels."""
    return tuple(shaped_pictures.jpegs(COUNT))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Shards of the pictures."""
    folder = tmp_path_factory.mktemp("any") / "data"
    shaped_pictures.write_shards(folder, pictures())
    return folder


def extract(
    data: pathlib.Path, work: pathlib.Path, num_devices: int, canvas: int, name: str = SIGLIP
) -> tuple[EmbeddedDataset, Timings]:
    config = BenchmarkConfig(
        DatasetConfig(data_dir=str(data)),
        ModelConfig(name="small"),
        embed=EmbedConfig(
            batch_size_per_device=8, num_buckets=4, canvas=canvas, storage_dtype="float32"
        ),
    )
    timings, mesh = Timings(), make_mesh(devices=jax.devices()[:num_devices])
    dataset = IliasDataset(epath.Path(data))
    return embed_dataset(dataset, model(name), mesh, config, epath.Path(work), timings), timings


def vectors_of(embedded: EmbeddedDataset) -> np.ndarray:
    """[COUNT, D] in the order of the pictures."""
    return np.concatenate([embedded.images["image_query"].vectors(), embedded.database.vectors()])


@functools.cache
def one_at_a_time(name: str = SIGLIP) -> np.ndarray:
    """[COUNT, D]: every picture alone, resized by Pillow, in a sequence of its own length."""
    small = model(name)
    step = jax.jit(functools.partial(images_forward, small))
    vectors = []
    for jpeg in pictures():
        cut = jpeg_to_patches(jpeg, RESOLUTION, PATCH, exif_transpose=False)
        sizes = np.array([cut.size], np.int32)
        vectors.append(np.asarray(step(small.parameters, cut.pixels[None], sizes))[0])
    whole = np.stack(vectors)
    return whole / np.linalg.norm(whole, axis=1, keepdims=True)


def test_the_pictures_are_of_every_shape_and_their_embeddings_differ() -> None:
    lengths = {len(jpeg_to_patches(jpeg, RESOLUTION, PATCH, False).pixels) for jpeg in pictures()}
    assert lengths == {GRID * short for short in range(1, GRID + 1)}
    alone = one_at_a_time()
    cosine = alone @ alone.T
    assert cosine[~np.eye(COUNT, dtype=bool)].mean() < 0.95


@pytest.fixture(scope="module")
def on_canvases(
    data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EmbeddedDataset, Timings]:
    """What one device gives with pictures that it resizes itself."""
    return extract(data, tmp_path_factory.mktemp("one"), num_devices=1, canvas=160)


@pytest.mark.parametrize("canvas", [0, 160])
def test_bucketed_and_padded_equals_one_at_a_time(
    data: pathlib.Path,
    on_canvases: tuple[EmbeddedDataset, Timings],
    tmp_path: pathlib.Path,
    canvas: int,
) -> None:
    embedded, timings = on_canvases if canvas else extract(data, tmp_path, 1, canvas=0)
    assert np.abs(vectors_of(embedded) - one_at_a_time()).max() < 1e-5
    stage = timings.stages["embed_images"]
    assert 1 < stage.compiles <= MOST_COMPILES
    assert stage.items == COUNT and stage.device_facts()["fill_rate"] > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_so_it_is_with_every_family(name: str, data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    embedded, timings = extract(data, tmp_path, 1, 160, name)
    alone, found = one_at_a_time(name), vectors_of(embedded)
    distances = np.linalg.norm(alone[:, None] - alone[None], axis=2)
    assert distances[~np.eye(COUNT, dtype=bool)].mean() > 0.1  # 10,000 times the tolerance
    assert np.abs(found - alone).max() < 1e-5
    assert 1 < timings.stages["embed_images"].compiles <= MOST_COMPILES


@pytest.mark.slow
@pytest.mark.eight_devices
def test_eight_devices_give_the_bits_of_one(data, on_canvases, tmp_path) -> None:
    one, _ = on_canvases
    eight, _ = extract(data, tmp_path, num_devices=8, canvas=160)
    np.testing.assert_array_equal(vectors_of(one), vectors_of(eight))


def test_the_oracle_would_notice_a_wrong_grid() -> None:
    """A picture on its side has other positions, and so another embedding."""
    small, cut = model(SIGLIP), jpeg_to_patches(pictures()[3], RESOLUTION, PATCH, False)
    turned = dataclasses.replace(cut, size=cut.size[::-1])
    step = jax.jit(functools.partial(images_forward, small))
    found = [
        np.asarray(step(small.parameters, one.pixels[None], np.array([one.size], np.int32)))[0]
        for one in (cut, turned)
    ]
    assert np.abs(found[0] - found[1]).max() > 0.01 * np.linalg.norm(found[0])
