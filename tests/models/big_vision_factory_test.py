"""The plug-in for big_vision.

The first tests are of its mechanics, with a stand-in: a package of the same names with one small
network, written by the test. The last ones run where the real big_vision is on the Python path,
and are skipped elsewhere.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import parity_weights as seeded
import pytest
import tiny_tokenizer
from etils import epath
from small_siglip import CONFIG, stacked

from ilias_jax import benchmark
from ilias_jax.config import parse
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Preprocessing, parameters_sha256
from ilias_jax.models.big_vision import TWO_TOWERS, build
from ilias_jax.models.checkpoints.flax_names import from_big_vision, to_big_vision
from ilias_jax.models.custom import resolve_factory
from ilias_jax.models.load import tower_model
from ilias_jax.models.tokenizers import Tokenizer
from ilias_jax.report.manifest import _describe_canvas

RESOLUTION = 8
NETWORK = """
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

VANITY_NAMES = {"known": "gs://nowhere/known.npz"}


class Model(nn.Module):
    width: int
    dtype_mm: str = "float32"

    @nn.compact
    def __call__(self, image, *, train=False):
        assert image.dtype == "float32" and not train
        x = nn.Dense(self.width, dtype=self.dtype_mm, name="stem")(image.mean(axis=(1, 2)))
        return x, {"stem": x}


def load(init_params, init_file, model_cfg, dont_load=()):
    assert "/" in init_file and model_cfg.width
    with np.load(init_file.partition(".npz:")[0].removesuffix(".npz") + ".npz") as file:
        stem = {name: file[name] for name in file.files if name not in dont_load}
    if set(stem) - {"kernel", "bias"}:
        raise ValueError(f"not in the model: {sorted(set(stem) - {'kernel', 'bias'})}")
    return {"stem": {**init_params["stem"], **stem}}
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder with a package that has big_vision's names, and a checkpoint beside it."""
    models = tmp_path / "big_vision" / "models"
    models.mkdir(parents=True)
    for folder in (models, models.parent):
        (folder / "__init__.py").write_text("")
    (models / "small.py").write_text(NETWORK)
    (models / "needy.py").write_text("import no_such_package.io\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    arrays = {"kernel": np.float32(np.arange(12).reshape(3, 4)), "bias": np.ones(4, np.float32)}
    np.savez(tmp_path / "w.npz", **arrays)
    yield arrays
    for name in [name for name in sys.modules if name.split(".")[0] == "big_vision"]:
        del sys.modules[name]


def _build(**changes):
    arguments = {"network": "small", "config": {"width": 4}, "checkpoint": "w.npz"}
    return build(**{**arguments, "resolution": RESOLUTION, **changes})


def _error(**changes) -> str:
    with pytest.raises(UserError) as caught:
        _build(**changes)
    return str(caught.value)


def _whole_images(count: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(count, 1, RESOLUTION**2 * 3)).astype(np.float32)
    return jnp.asarray(pixels), jnp.ones((count, 2), jnp.int32)


def test_without_big_vision_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "big_vision", None)  # as if it were nowhere
    message = _error()
    assert message.startswith("big_vision is not on the Python path: git clone https://github.com/")


def test_a_package_that_big_vision_misses_is_named(stand_in):
    assert _error(network="needy").startswith("big_vision needs no_such_package, which is not inst")


def test_a_network_that_it_does_not_have_gets_a_suggestion(stand_in):
    message = _error(network="smal")
    assert message.startswith("smal is no network of big_vision; did you mean small? Known here: ")
    assert "proj.image_text.two_towers" in message


def test_the_network_runs_on_the_checkpoint_and_whole_images(stand_in):
    model = _build()
    pixels, grid = _whole_images(3)
    found = model.embed_images(model.parameters, pixels, grid)
    means = np.asarray(pixels).reshape(3, -1, 3).mean(axis=1)
    expected = means @ stand_in["kernel"] + stand_in["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert model.preprocessing.max_side == 1  # the square comes whole
    assert model.embed_texts is None


def test_the_report_says_what_differs_from_the_protocol(stand_in):
    model = _build(checkpoint="w.npz")
    assert _describe_canvas(model.preprocessing) == {"canvas": "8 x 8, padded with the mean colour"}
    assert _describe_canvas(Preprocessing(384, 16)) == {}
    assert model.fingerprint["network"] == "big_vision.models.small"
    assert model.fingerprint["sha256"] == parameters_sha256(
        {"s": stand_in["bias"], "t": stand_in["kernel"]}
    )
    assert model.checkpoint == "w.npz"


def test_bfloat16_is_asked_of_the_network(stand_in):
    model = _build(dtype="bfloat16")
    assert model.fingerprint["network_config"] == {"dtype_mm": "bfloat16", "width": 4}
    pixels, grid = _whole_images(2)
    out = model.embed_images(model.parameters, pixels, grid)
    assert out.dtype == "float32"
    assert (
        np.asarray(out) != np.asarray(_build().embed_images(model.parameters, pixels, grid))
    ).any()


def test_a_recipe_names_it(stand_in):
    section = {
        "factory": "ilias_jax.models.big_vision:build",
        "factory_args": {"network": "small", "config": {"width": 4}},
        "checkpoint": "w.npz",
        "resolution": RESOLUTION,
    }
    config = parse({"dataset": {"data_dir": "d"}, "model": section})
    model = resolve_factory(config.model).load()
    assert model.fingerprint["factory"] == "ilias_jax.plugins.big_vision:build"
    assert model.name == "big_vision small"


def test_a_checkpoint_that_does_not_fit_is_refused(stand_in, tmp_path):
    assert "model.checkpoint: none.npz does not exist, and big_vision knows no such name" in _error(
        checkpoint="none.npz:img"
    )
    message = _error(config={"width": 5})
    assert (
        "w.npz does not fit small:\n  stem/bias is (4,), expected (5,)\n  stem/kernel is" in message
    )
    np.savez(tmp_path / "few.npz", kernel=stand_in["kernel"])
    assert "stem/bias is not loaded and would stay random" in _error(checkpoint="few.npz")
    np.savez(tmp_path / "more.npz", head=np.ones(3), **stand_in)
    message = _error(checkpoint="more.npz")
    assert "more.npz does not fit big_vision's small:\nTraceback" in message
    assert "ValueError: not in the model: ['head']" in message
    assert _build(checkpoint="more.npz", load={"dont_load": ("head",)}).parameters.keys() == {
        "stem"
    }


def test_a_name_that_big_vision_knows_is_its_own_to_fetch(stand_in):
    assert "does not fit big_vision's small:\nTraceback" in _error(checkpoint="known")


def test_a_configuration_that_is_none_of_the_networks_is_shown(stand_in):
    message = _error(config={"widht": 4})
    assert "big_vision's small cannot be built with config={'widht': 4}" in message
    assert "unexpected keyword argument 'widht'" in message


def test_texts_need_two_towers(stand_in, tmp_path):
    (tmp_path / "t.model").write_bytes(tiny_tokenizer.train())
    assert "big_vision's small has no text tower" in _error(tokenizer="t.model")


SIDE = seeded.PATCH * seeded.NATIVE_GRID
IMAGE = {**seeded.IMAGE, "patch_size": (seeded.PATCH, seeded.PATCH), "pool_type": "map"}
BOTH = {
    "image": IMAGE,
    "text": {**seeded.TEXT, "vocab_size": seeded.VOCAB},
    "out_dim": (None, seeded.IMAGE["width"]),
    "bias_init": -10.0,
}


@pytest.fixture
def real(tmp_path, monkeypatch):
    """A folder with a checkpoint for the real big_vision."""
    pytest.importorskip("big_vision.models.vit", exc_type=ImportError)
    np.savez(tmp_path / "w.npz", **seeded.weights())
    (tmp_path / "t.model").write_bytes(tiny_tokenizer.train())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _ours(tokenizer: Tokenizer) -> Model:
    """The same weights in this program's own towers."""
    parameters = from_big_vision(seeded.weights(), CONFIG, "seeded")
    return tower_model("own", CONFIG, parameters, tokenizer, SIDE, "float32", {})


def _patches(images: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """[B, S, S, 3] as our towers take it."""
    patch, side, count = seeded.PATCH, seeded.NATIVE_GRID, len(images)
    cut = images.reshape(count, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    grid = np.full((count, 2), side, np.int32)
    return jnp.asarray(cut.reshape(count, side * side, -1)), jnp.asarray(grid)


def _unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _real_error(**changes) -> str:
    with pytest.raises(UserError) as caught:
        _real(**changes)
    return str(caught.value)


def _real(**changes) -> Model:
    arguments = {"network": TWO_TOWERS, "config": BOTH, "checkpoint": "w.npz"}
    arguments |= {"resolution": SIDE, "tokenizer": "t.model", "text_length": seeded.TEXT_LENGTH}
    return build(**{**arguments, **changes})


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scanned layers"])
def test_both_real_towers_give_what_ours_give_on_the_same_weights(real, scan):
    if scan:  # as the checkpoints of SigLIP 2 are
        parameters = from_big_vision(seeded.weights(), CONFIG, "seeded")
        np.savez(real / "w.npz", **stacked(dict(to_big_vision(parameters, CONFIG))))
    both = {name: {**BOTH[name], "scan": scan} for name in ("image", "text")}
    theirs = _real(config={**BOTH, **both})
    ours = _ours(theirs.tokenize)
    images = np.random.default_rng(4).normal(size=(6, SIDE, SIDE, 3)).astype(np.float32)
    whole = jnp.asarray(images.reshape(len(images), 1, -1)), jnp.ones((len(images), 2), jnp.int32)
    expected = _unit(jax.jit(ours.embed_images)(ours.parameters, *_patches(images)))
    found = _unit(jax.jit(theirs.embed_images)(theirs.parameters, *whole))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected @ expected.T - np.eye(len(images))).max() < 0.95  # images do differ
    tokens = seeded.tokens()
    expected = _unit(jax.jit(ours.embed_texts)(ours.parameters, tokens))
    np.testing.assert_allclose(
        _unit(jax.jit(theirs.embed_texts)(theirs.parameters, tokens)), expected, atol=1e-5
    )
    assert np.abs(expected @ expected.T - np.eye(len(tokens))).max() < 0.95


def test_the_real_image_tower_is_loaded_out_of_a_two_tower_checkpoint(real):
    alone = _real(network="vit", config=IMAGE, checkpoint="w.npz:img", tokenizer="")
    both = _real()
    pixels = np.random.default_rng(5).normal(size=(2, 1, SIDE**2 * 3)).astype(np.float32)
    grid = jnp.ones((2, 2), jnp.int32)
    np.testing.assert_allclose(
        _unit(jax.jit(alone.embed_images)(alone.parameters, pixels, grid)),
        _unit(jax.jit(both.embed_images)(both.parameters, pixels, grid)),
        atol=1e-6,
    )
    assert alone.embed_texts is None
    assert alone.fingerprint["sha256"] != both.fingerprint["sha256"]


def test_the_real_towers_run_at_other_resolutions_and_in_bfloat16(real):
    assert _real(resolution=SIDE * 2).parameters["img"]["pos_embedding"].shape == (1, 144, 64)
    pixels = np.random.default_rng(5).normal(size=(2, 1, SIDE**2 * 3)).astype(np.float32)
    grid = jnp.ones((2, 2), jnp.int32)
    half, full = _real(dtype="bfloat16"), _real()
    found = _unit(jax.jit(half.embed_images)(half.parameters, pixels, grid))
    expected = _unit(jax.jit(full.embed_images)(full.parameters, pixels, grid))
    assert 0 < np.abs(found - expected).max() < 0.05
    assert (found * expected).sum(axis=1).min() > 0.999


def test_a_mistake_with_the_real_towers_is_a_message(real):
    assert "txt/pos_embedding is (1, 16, 48), expected (1, 8, 48)" in _real_error(text_length=8)
    few = {**BOTH, "text": {**BOTH["text"], "vocab_size": 9}}
    assert "txt/Embed_0/embedding is (100, 48), expected (9, 48)" in _real_error(config=few)
    deeper = {**BOTH, "image": {**IMAGE, "depth": 4}}
    message = _real_error(config=deeper)
    assert "does not fit big_vision's proj.image_text.two_towers" in message
    assert "Transformer/encoderblock_3/LayerNorm_0/bias" in message


def test_a_real_tower_pair_runs_by_a_recipe(real, small_world, tmp_path):
    section = {
        "factory": "ilias_jax.models.big_vision:build",
        "factory_args": {"network": TWO_TOWERS, "config": BOTH, "text_length": seeded.TEXT_LENGTH},
        "checkpoint": str(real / "w.npz"),
        "tokenizer": str(real / "t.model"),
        "resolution": SIDE,
    }
    values = {"dataset": {"data_dir": str(small_world)}, "model": section}
    document = benchmark.run(parse(values), epath.Path(tmp_path / "run"))
    assert sorted(document["results"]) == ["image_to_image", "text_to_image"]
    assert document["model"]["canvas"] == "96 x 96, padded with the mean colour"
