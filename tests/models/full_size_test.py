"""SigLIP L/16 at its full size, from a checkpoint file to embeddings, with random weights."""

import functools
import hashlib
import io
import pathlib

import jax
import numpy as np
import parity_weights as seeded
import pytest
import tiny_tokenizer
from PIL import Image

from ilias_jax.config import ModelConfig
from ilias_jax.embeddings.embedder import Embedder, collect, place_parameters
from ilias_jax.mesh import make_mesh
from ilias_jax.model import Model
from ilias_jax.models.checkpoints.flax_names import to_big_vision
from ilias_jax.models.load import load_model
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.registry import VARIANTS, resolve
from ilias_jax.preprocessing.batching import batch_items, batch_rows, bucket_shapes
from ilias_jax.preprocessing.decode import jpeg_to_patches
from ilias_jax.preprocessing.resize import normalize_patches, patch_grid

NAME = "vit_large_patch16_siglip_384.webli"
NUM_PARAMETERS = 652_478_466
# TransformerSize and height; two of a shape, so that the batches of two are full.
SIZES = (
    (640, 640),
    (500, 500),
    (800, 600),
    (600, 800),
    (960, 540),
    (540, 960),
    (900, 200),
    (90, 700),
)
TEXTS = ["a red mug", "a photo of the old oak table with a white lamp"]

pytestmark = pytest.mark.slow


def random_parameter(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values at which a deep network neither dies nor explodes."""
    if path.endswith("scale"):
        return np.ones(shape, np.float32)
    inputs = 1
    if path.endswith("kernel"):
        *_, name, _ = path.split(".")
        axes = {"query": [-3], "key": [-3], "value": [-3], "out": [-3, -2]}.get(name, [-2])
        inputs = np.prod([shape[axis] for axis in axes])
    scale = 0.02 if path.endswith("bias") else float(inputs) ** -0.5
    values = rng.standard_normal(shape, np.float32)
    values *= scale
    return values


def write_checkpoint(path: pathlib.Path) -> None:
    config = VARIANTS[NAME].architecture
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    parameters = {key: random_parameter(rng, key, shape) for key, shape in shapes.items()}
    np.savez(path, **dict(to_big_vision(parameters, config)))


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("full")
    checkpoint, tokenizer = folder / "large.npz", folder / "tokenizer.model"
    write_checkpoint(checkpoint)
    tokenizer.write_bytes(tiny_tokenizer.train())
    yield ModelConfig(name=NAME, checkpoint=str(checkpoint), tokenizer=str(tokenizer))
    checkpoint.unlink()  # pytest keeps temporary folders of the last runs; 2.4 GiB are too many


def jpegs() -> list[bytes]:
    rng = np.random.default_rng(1)
    files = []
    for width, height in SIZES:
        buffer = io.BytesIO()
        Image.fromarray(seeded.picture(rng, width, height)).save(buffer, format="JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def forward(model: Model, parameters, patches: jax.Array, size: jax.Array) -> jax.Array:
    how = model.preprocessing
    pixels = normalize_patches(patches, size, how.patch_size, how.mean, how.std)
    return model.embed_images(parameters, pixels, patch_grid(size, how.patch_size))


def test_a_full_size_checkpoint_embeds_images_and_texts(config, monkeypatch):
    monkeypatch.setattr("ilias_jax.models.load._FEWER_PIECES", 32_000)  # a tiny tokenizer will do
    model = load_model(resolve(config))
    with open(config.checkpoint, "rb") as file:
        assert model.fingerprint["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    assert sum(value.size for value in model.parameters.values()) == NUM_PARAMETERS
    how = model.preprocessing
    assert (how.resolution, how.max_side) == (512, 32)

    mesh = make_mesh(devices=jax.devices()[:1])
    parameters = place_parameters(model.parameters, mesh)
    items = []
    for row, jpeg in enumerate(jpegs()):
        cut = jpeg_to_patches(jpeg, how.resolution, how.patch_size, exif_transpose=True)
        items.append((row, cut))
    step = functools.partial(forward, model)
    shapes = bucket_shapes(how, 4, how.max_scale)
    batched = Embedder(step, parameters, mesh, batch_size_per_device=2)
    images = collect(batched.run(batch_items(items, shapes, batched.batch_size)), SIZES, "")
    assert images.shape == (len(SIZES), 1024)
    assert_distinct_unit_vectors(images)

    alone = Embedder(step, parameters, mesh, batch_size_per_device=1)
    for row in (4, 7):  # padded with other tokens above: 576 to 768, 160 to 256
        item = 0, items[row][1]
        unpadded = [item[1].extent]
        vectors = collect(alone.run(batch_items([item], unpadded, alone.batch_size)), [""], "")
        np.testing.assert_allclose(vectors[0], images[row], atol=1e-5)

    texts = Embedder(model.embed_texts, parameters, mesh, batch_size_per_device=2)
    vectors = collect(texts.run(batch_rows(model.tokenize(TEXTS), texts.batch_size)), TEXTS, "")
    assert vectors.shape == (len(TEXTS), 1024)
    assert_distinct_unit_vectors(vectors)


def assert_distinct_unit_vectors(vectors: np.ndarray) -> None:
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosine = vectors @ vectors.T
    assert cosine[~np.eye(len(vectors), dtype=bool)].max() < 0.999
