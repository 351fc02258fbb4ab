"""CNNs on pictures of any shape through the whole extraction, beside one picture at a time."""

import dataclasses
import functools
import pathlib
import random
import subprocess
import time

import cnn_towers
import jax
import kill_embed_test
import numpy as np
import pytest
import shaped_pictures
import small_cnn
from cnn_cases import CNNS
from etils import epath

from ilias_jax.config import BenchmarkConfig, DatasetConfig, EmbedConfig, ModelConfig
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.dataset.synthetic.generate import make_world
from ilias_jax.embeddings.extract import EmbeddedDataset, embed_dataset, images_forward
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.model import Model
from ilias_jax.models.cnn.plain import PlainConfig
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.load import tower_model
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.preprocessing.decode import decode, resize, resized_size
from ilias_jax.profiling import Timings

COUNT, MANY, RESOLUTION = 60, 300, 32
MOST_PROGRAMS = 12
# Two layers that see the border, one with a stride.
TINY = PlainConfig(((0, 8, 11, 4), (2, 12, 3, 1)), (1,), 2, min_side=11)


@functools.cache
def tiny() -> Model:
    config = DualEncoderConfig(TINY)
    rng = np.random.default_rng(1)
    parameters = {
        path: rng.normal(size=shape, scale=0.3).astype(np.float32)
        for path, shape in parameter_shapes(config, "image").items()
    }
    return tower_model("tiny CNN", config, parameters, None, RESOLUTION, "float32", {})


@functools.cache
def _jpegs(count: int) -> list[bytes]:
    return shaped_pictures.jpegs(count)


def fits(jpeg: bytes, model: Model) -> bool:
    how = model.preprocessing
    return min(resized_size(*decode(jpeg, False).size, how.resolution)) >= how.min_side


def pictures(count: int, model: Model) -> list[bytes]:
    """The first 30, which are core images, are such that the model takes."""
    found = _jpegs(count)
    core = [one for one in found if fits(one, model)][:30]
    return core + [one for one in found if one not in core]


def extract(
    work: pathlib.Path, model: Model, count: int, num_devices: int = 1, canvas: int = 160
) -> tuple[EmbeddedDataset, Timings]:
    data = work.parent / "data"
    if not data.exists():
        shaped_pictures.write_shards(data, pictures(count, model))
    embed = EmbedConfig(batch_size_per_device=8, canvas=canvas, storage_dtype="float32")
    config = BenchmarkConfig(DatasetConfig(data_dir=str(data)), ModelConfig(name="x"), embed=embed)
    timings, mesh = Timings(), make_mesh(devices=jax.devices()[:num_devices])
    dataset = IliasDataset(epath.Path(data))
    return embed_dataset(dataset, model, mesh, config, epath.Path(work), timings), timings


def vectors_of(embedded: EmbeddedDataset) -> np.ndarray:
    return np.concatenate([embedded.images["image_query"].vectors(), embedded.database.vectors()])


def one_at_a_time(model: Model, jpegs: list[bytes]) -> np.ndarray:
    """[N, D]: every picture alone, resized by Pillow, on a canvas of its own size."""
    step, vectors = jax.jit(functools.partial(images_forward, model)), []
    for jpeg in jpegs:
        pixels = resize(decode(jpeg, False), model.preprocessing.resolution)
        size = np.array([pixels.shape[:2]], np.int32)
        vectors.append(np.asarray(step(model.parameters, pixels[None], size))[0])
    whole = np.stack(vectors)
    return whole / np.linalg.norm(whole, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory) -> tuple[EmbeddedDataset, Timings]:
    return extract(tmp_path_factory.mktemp("cnn") / "one", tiny(), COUNT)


def test_pictures_on_canvases_equal_one_at_a_time(on_one_device) -> None:
    embedded, timings = on_one_device
    taken = [one for one in pictures(COUNT, tiny()) if fits(one, tiny())]
    alone, found = one_at_a_time(tiny(), taken), vectors_of(embedded)
    assert COUNT // 2 < len(taken) < COUNT
    assert np.abs(found - alone).max() < 1e-5
    assert np.linalg.norm(alone[:, None] - alone[None], axis=2).mean() > 0.1
    stage = timings.stages["embed_images"]
    assert 1 < stage.compiles <= MOST_PROGRAMS
    assert stage.device_facts()["fill_rate"] > 0.4


def test_what_is_too_thin_is_rejected_by_name(on_one_device) -> None:
    embedded, _ = on_one_device
    rejected = embedded.images["distractor"].rejected()
    thin = [one for one in pictures(COUNT, tiny()) if not fits(one, tiny())]
    assert len(rejected) == len(thin) > 3
    for _, reason in rejected:
        assert "too thin" in reason and "the model takes no side below 11" in reason


def test_a_thin_query_stops_the_run(tmp_path) -> None:
    thin = [one for one in shaped_pictures.jpegs(COUNT) if not fits(one, tiny())]
    shaped_pictures.write_shards(tmp_path / "data", thin[:1] * 30)
    with pytest.raises(UserError, match="image_query.*too thin: .* pixels after the resize"):
        extract(tmp_path / "work", tiny(), COUNT)


@pytest.mark.slow
def test_two_devices_and_the_host_s_resize_give_the_same(on_one_device, tmp_path) -> None:
    one, _ = on_one_device
    two, _ = extract(tmp_path / "two", tiny(), COUNT, num_devices=2)
    np.testing.assert_array_equal(vectors_of(one), vectors_of(two))
    host, _ = extract(tmp_path / "host", tiny(), COUNT, canvas=0)
    np.testing.assert_allclose(vectors_of(one), vectors_of(host), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CNNS.items() if case.reduced])
def test_few_programs_embed_any_shape_with_every_family(name: str, tmp_path) -> None:
    """300 pictures; 20 of them again, each alone."""
    model = cnn_towers.model(name)
    embedded, timings = extract(tmp_path / "work", model, MANY)
    taken = [one for one in pictures(MANY, model) if fits(one, model)]
    found = vectors_of(embedded)
    assert len(found) == len(taken)
    alone = one_at_a_time(model, taken[::15])
    assert np.abs(found[::15] - alone).max() < 1e-5
    assert timings.stages["embed_images"].compiles <= MOST_PROGRAMS


@pytest.mark.slow
@pytest.mark.eight_devices
def test_eight_devices_give_the_bits_of_one(on_one_device, tmp_path) -> None:
    one, _ = on_one_device
    eight, _ = extract(tmp_path / "eight", tiny(), COUNT, num_devices=8)
    np.testing.assert_array_equal(vectors_of(one), vectors_of(eight))


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(tmp_path) -> None:
    """Ten of the command, at random moments of its extraction; then it runs to its end."""
    data, rng = tmp_path / "world", random.Random(3)
    make_world(kill_embed_test.WORLD, data, num_processes=2)
    words = small_cnn.words(tmp_path)

    def start(name: str) -> tuple[subprocess.Popen, float]:
        process = kill_embed_test.start(data, tmp_path / name, small_cnn.ROW, *words)
        return process, kill_embed_test.wait_for_embeddings(process, tmp_path / name)

    process, began = start("whole")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    seconds = time.monotonic() - began
    for _ in range(10):
        process, _ = start("killed")
        time.sleep(rng.uniform(0, 0.5 * seconds))
        process.kill()
        process.communicate(timeout=60)
    process, _ = start("killed")
    assert process.communicate(timeout=600) and process.returncode == 0
    whole, killed = (kill_embed_test.embedded(tmp_path / name) for name in ("whole", "killed"))
    assert len(whole) >= 10
    assert whole == {name: digest for name, digest in killed.items() if name in whole}


def test_fields_that_change_what_is_embedded_are_in_the_fingerprint() -> None:
    of_cnn = tiny().image_fingerprint()["preprocessing"]
    assert (of_cnn["whole"], of_cnn["min_side"]) == (True, 11)
    patches = dataclasses.replace(tiny().preprocessing, whole=False, min_side=1)
    other = dataclasses.replace(tiny(), preprocessing=patches).image_fingerprint()
    assert {"whole", "min_side"}.isdisjoint(other["preprocessing"])
