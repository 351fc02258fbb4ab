import io
import re

import ml_dtypes
import numpy as np
import parity_weights as seeded
import pytest
from small_siglip import CONFIG, SIZES, stacked

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.flax_names import from_big_vision, to_big_vision
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.layers import TransformerSize
from ilias_jax.models.load import load_checkpoint
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.registry.siglip import siglip

TEXT_POSITION = "txt/pos_embedding"
MLP_BIAS = "img/Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias"


def _layout(prefix: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}/{key}": shape for key, shape in shapes.items()}


def published_layout() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of L/16 at 384, written down from the published model's definition."""
    norm = {"scale": (1024,), "bias": (1024,)}
    attention = {
        **{f"{name}/kernel": (1024, 16, 64) for name in ("query", "key", "value")},
        **{f"{name}/bias": (16, 64) for name in ("query", "key", "value")},
        "out/kernel": (16, 64, 1024),
        "out/bias": (1024,),
    }
    mlp = {
        "Dense_0/kernel": (1024, 4096),
        "Dense_0/bias": (4096,),
        "Dense_1/kernel": (4096, 1024),
        "Dense_1/bias": (1024,),
    }
    block = {
        **_layout("LayerNorm_0", norm),
        **_layout("MultiHeadDotProductAttention_0", attention),
        **_layout("LayerNorm_1", norm),
        **_layout("MlpBlock_0", mlp),
    }
    layout = {
        "t": (1,),
        "b": (1,),
        "img/embedding/kernel": (16, 16, 3, 1024),
        "img/embedding/bias": (1024,),
        "img/pos_embedding": (1, 576, 1024),
        "img/MAPHead_0/probe": (1, 1, 1024),
        **_layout("img/MAPHead_0/MultiHeadDotProductAttention_0", attention),
        **_layout("img/MAPHead_0/LayerNorm_0", norm),
        **_layout("img/MAPHead_0/MlpBlock_0", mlp),
        "txt/Embed_0/embedding": (32000, 1024),
        "txt/pos_embedding": (1, 64, 1024),
        "txt/head/kernel": (1024, 1024),
        "txt/head/bias": (1024,),
    }
    for encoder in ("img/Transformer", "txt/Encoder_0"):
        layout |= _layout(f"{encoder}/encoder_norm", norm)
        for i in range(24):
            layout |= _layout(f"{encoder}/encoderblock_{i}", block)
    return layout


def without_memory(config: DualEncoderConfig) -> dict[str, np.ndarray]:
    """Our parameters, each a single zero seen at every place."""
    shapes = parameter_shapes(config)
    return {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}


@pytest.fixture(scope="module")
def parameters() -> dict[str, np.ndarray]:
    return from_big_vision(seeded.weights(), CONFIG, "seeded weights")


def written(parameters, config=CONFIG, *, in_one: bool = False) -> dict[str, np.ndarray]:
    arrays = dict(to_big_vision(parameters, config))
    return stacked(arrays) if in_one else arrays


def stacked_weights(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return written(parameters, in_one=True)


def assert_equal(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert ours.keys() == expected.keys()
    for path, value in ours.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


def problems(arrays: dict[str, np.ndarray]) -> str:
    """The message for a checkpoint that does not fit."""
    with pytest.raises(UserError) as error:
        from_big_vision(arrays, CONFIG, "some.npz")
    return str(error.value)


def test_every_key_and_shape_is_the_published_layouts():
    config = VARIANTS["vit_large_patch16_siglip_384.webli"].architecture
    arrays = to_big_vision(without_memory(config), config)
    shapes = {key: value.shape for key, value in arrays}
    assert shapes == published_layout()
    assert len(shapes) == 796


def test_the_seeded_checkpoint_comes_back_from_our_parameters(parameters):
    back = dict(to_big_vision(parameters, CONFIG))
    expected = seeded.weights()
    assert back.keys() == expected.keys()
    for key, value in back.items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_blocks_keep_their_order(parameters):
    """With more than ten blocks "encoderblock_10" sorts before "encoderblock_2"."""
    config = siglip(
        image=TransformerSize(8, 12, 8, 1),
        text=TransformerSize(8, 12, 8, 1),
        patch_size=2,
        native_grid=1,
        vocab_size=3,
        text_length=2,
    )
    zeros = dict(to_big_vision(without_memory(config), config))
    key = "txt/Encoder_0/encoderblock_{}/LayerNorm_0/bias"
    arrays = zeros | {key.format(i): np.full(8, i, np.float32) for i in range(12)}
    shuffled = {key: arrays[key] for key in sorted(arrays)}
    biases = from_big_vision(shuffled, config, "x")["text.encoder.blocks.norm1.bias"]
    np.testing.assert_array_equal(biases[:, 0], np.arange(12))


def test_both_layouts_are_read_for_either_tower(parameters):
    stacked, numbered = stacked_weights(parameters), seeded.weights()
    assert not any("encoderblock_" in key for key in stacked)
    assert_equal(from_big_vision(stacked, CONFIG, "x"), parameters)
    mixed = {key: value for key, value in stacked.items() if key.startswith("txt/")}
    mixed |= {key: value for key, value in numbered.items() if not key.startswith("txt/")}
    assert_equal(from_big_vision(mixed, CONFIG, "x"), parameters)


@pytest.mark.parametrize("in_one", [False, True])
def test_a_leading_params_is_taken_off(parameters, in_one):
    arrays = stacked_weights(parameters) if in_one else seeded.weights()
    prefixed = {f"params/{key}": value for key, value in arrays.items()}
    assert_equal(from_big_vision(prefixed, CONFIG, "x"), parameters)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("in_one", [False, True])
def test_bfloat16_is_read_from_a_file(tmp_path, parameters, in_one, twice):
    """numpy knows no bfloat16 and reads it as void of two bytes."""
    arrays = stacked_weights(parameters) if in_one else seeded.weights()
    if twice:
        arrays["txt/Encoder_0/pos_embedding"] = 2 * arrays[TEXT_POSITION]
    low = {key: value.astype(ml_dtypes.bfloat16) for key, value in arrays.items()}
    np.savez(tmp_path / "low.npz", **low)
    with np.load(tmp_path / "low.npz") as archive:
        assert archive["t"].dtype == np.dtype("V2")
    loaded = load_checkpoint(tmp_path / "low.npz", CONFIG)
    rounded = {
        path: value.astype(ml_dtypes.bfloat16).astype(np.float32)
        for path, value in parameters.items()
    }
    if twice:
        rounded["text.position"] *= 3
    assert_equal(loaded, rounded)


def test_float16_is_read(parameters):
    arrays = {key: value.astype(np.float16) for key, value in seeded.weights().items()}
    expected = {path: value.astype(np.float16) for path, value in parameters.items()}
    assert_equal(from_big_vision(arrays, CONFIG, "x"), expected)


def test_a_text_position_embedding_added_twice_is_summed(parameters):
    arrays = seeded.weights()
    arrays["txt/Encoder_0/pos_embedding"] = 2 * arrays[TEXT_POSITION]
    loaded = from_big_vision(arrays, CONFIG, "x")
    np.testing.assert_allclose(loaded["text.position"], 3 * parameters["text.position"], rtol=1e-6)


def test_a_second_position_embedding_of_another_shape_is_an_error():
    arrays = seeded.weights()
    arrays["txt/Encoder_0/pos_embedding"] = arrays[TEXT_POSITION][:, :1]
    assert "unmapped key: txt/Encoder_0/pos_embedding" in problems(arrays)


def test_one_message_lists_every_difference():
    arrays = seeded.weights()
    arrays["img/embeding/bias"] = arrays.pop("img/embedding/bias")  # renamed
    arrays["txt/head/kernel"] = arrays["txt/head/kernel"].T  # of another shape
    del arrays["b"]  # of the loss: of no use here
    arrays["opt/step"] = np.zeros(())
    del arrays[MLP_BIAS]  # one block of three
    message = problems(arrays)
    assert message.startswith("some.npz does not fit the model; ")
    for line in (
        "unmapped key: img/embeding/bias",
        "unfilled parameter: img/embedding/bias of shape (64,)",
        "wrong shape: txt/head/kernel is (64, 48), expected (48, 64)",
        "unmapped key: opt/step",
        f"unfilled parameter: {MLP_BIAS} of shape (256,)",
    ):
        assert line in message
    count = int(re.search(r"(\d+) differences", message).group(1))
    assert count == len(message.splitlines()) - 1 == 5


def test_the_rest_of_a_train_state_is_left_out():
    arrays = {f"params/{key}": value for key, value in seeded.weights().items()}
    beside = {"opt/0/mu/img/embedding/bias": np.zeros(64), "chrono/accum_train_time": np.zeros(())}
    assert problems(arrays | beside | {"other": np.zeros(3)}).splitlines()[1:] == [
        "  unmapped key: other"
    ]


def test_stacked_blocks_without_end_are_not_counted():
    arrays = {"img/Transformer/encoderblock/LayerNorm_0/scale": np.zeros((10**9, 0), np.float32)}
    assert "unmapped key: img/Transformer/encoderblock/LayerNorm_0/scale" in problems(arrays)


def test_a_block_of_another_shape_is_named():
    arrays = seeded.weights()
    arrays[MLP_BIAS] = arrays[MLP_BIAS][:10]
    assert f"wrong shape: {MLP_BIAS} is (10,), expected (256,)" in problems(arrays)


def test_a_missing_last_block_is_named():
    arrays = {
        k: v for k, v in seeded.weights().items() if "img/Transformer/encoderblock_2" not in k
    }
    message = problems(arrays)
    name = "img/Transformer/encoderblock_2/LayerNorm_0/bias"
    assert f"unfilled parameter: {name} of shape (64,)" in message
    assert message.startswith("some.npz does not fit the model; 16 differences")


def test_blocks_in_both_layouts_are_ambiguous(parameters):
    arrays = seeded.weights()
    key = "txt/Encoder_0/encoderblock/LayerNorm_0/bias"
    arrays[key] = stacked_weights(parameters)[key]
    numbered = key.replace("encoderblock", "encoderblock_1")
    assert f"the same twice: {numbered} and {key}" in problems(arrays)


def test_a_stacked_array_without_blocks_is_of_a_wrong_shape(parameters):
    arrays = stacked_weights(parameters)
    key = "txt/Encoder_0/encoderblock/LayerNorm_0/bias"
    arrays[key] = np.zeros((), np.float32)
    assert f"unmapped key: {key}" in problems(arrays)


def test_a_key_with_and_without_params_is_ambiguous():
    arrays = seeded.weights()
    arrays["params/t"] = arrays["t"] + 1
    assert "the same twice: t and params/t" in problems(arrays)


def test_another_models_checkpoint_lists_all_keys():
    arrays = {"cls_token": np.zeros(3), "blocks.0.norm1.weight": np.zeros(3)}
    message = problems(arrays)
    assert "unmapped key: blocks.0.norm1.weight" in message
    assert "unmapped key: cls_token" in message
    assert message.count("unfilled parameter") == len(seeded.weights()) - len("tb")


def test_a_checkpoint_of_another_resolution_is_named():
    arrays = seeded.weights()
    arrays["img/pos_embedding"] = np.zeros((1, 49, 64), np.float32)
    assert "wrong shape: img/pos_embedding is (1, 49, 64), expected (1, 36, 64)" in problems(arrays)


IMAGE_ALONE = set(parameter_shapes(CONFIG, "image"))


@pytest.mark.parametrize("in_one", [False, True])
def test_the_image_tower_alone_comes_from_a_file_of_both(tmp_path, parameters, in_one):
    """What the text tower is like does not matter then."""
    arrays = written(parameters, CONFIG, in_one=in_one)
    arrays["params/txt/head/kernel"] = arrays.pop("txt/head/kernel")[:1]
    np.savez(tmp_path / "both.npz", **arrays)
    image = load_checkpoint(tmp_path / "both.npz", CONFIG, "image")
    assert_equal(image, {path: parameters[path] for path in IMAGE_ALONE})


def test_the_image_tower_alone_must_still_be_whole():
    arrays = seeded.weights()
    del arrays["img/embedding/bias"]
    arrays["extra"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        from_big_vision(arrays, CONFIG, "some.npz", "image")
    assert str(error.value).splitlines()[1:] == [
        "  unmapped key: extra",
        "  unfilled parameter: img/embedding/bias of shape (64,)",
    ]


def test_a_model_without_text_head_has_no_keys_for_it():
    config = siglip(**SIZES | {"text": SIZES["image"], "text_head": False})
    arrays = dict(to_big_vision(without_memory(config), config))
    assert not [key for key in arrays if key.startswith("txt/head")]
    assert from_big_vision(arrays, config, "x").keys() == parameter_shapes(config).keys()
    arrays["txt/head/bias"] = np.zeros(64, np.float32)
    with pytest.raises(UserError, match="1 differences:\n  unmapped key: txt/head/bias"):
        from_big_vision(arrays, config, "x")


@pytest.mark.parametrize("in_one", [False, True])
def test_naflex_files_have_a_dense_patch_embedding_and_a_grid(parameters, in_one):
    config = siglip(**SIZES, naflex=True)
    arrays = written(parameters, config, in_one=in_one)
    fixed = written(parameters, CONFIG, in_one=in_one)
    assert arrays["img/embedding/kernel"].shape == (768, 64)
    assert arrays["img/pos_embedding"].shape == (6, 6, 64)
    assert {key for key in arrays if arrays[key].shape != fixed[key].shape} == {
        "img/embedding/kernel",
        "img/pos_embedding",
    }
    assert_equal(from_big_vision(arrays, config, "x"), parameters)
    with pytest.raises(UserError, match=r"img/pos_embedding is \(1, 36, 64\), expected \(6, 6"):
        from_big_vision(fixed, config, "x")


@pytest.mark.parametrize("in_one", [False, True])
def test_a_file_brings_back_the_parameters(tmp_path, parameters, in_one):
    path = tmp_path / "checkpoint.npz"
    np.savez(path, **written(parameters, CONFIG, in_one=in_one))
    assert_equal(load_checkpoint(path, CONFIG), parameters)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _damaged() -> bytes:
    """A whole archive with a wrong byte in an array, as a bad disk leaves it."""
    content = bytearray(_npz({"t": np.zeros(1000, np.float32)}))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


BAD_FILES = {
    "empty": b"",
    "text": b"404 Not Found",
    "truncated": _npz(seeded.weights())[:100_000],
    "damaged": _damaged(),
    "one array": _npy(np.zeros(3)),
    "pickled": _npz({"t": np.asarray([{"a": 1}], dtype=object)}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, kind):
    path = tmp_path / "bad.npz"
    path.write_bytes(BAD_FILES[kind])
    with pytest.raises(UserError, match=re.escape(str(path)) + " is no "):
        load_checkpoint(path, CONFIG)
