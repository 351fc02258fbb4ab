"""A small SigLIP, pictures and texts from seeds, in plain numpy.

Shared by `parity_test.py` and `scripts/make_parity_values.py`, which runs the reference
implementations on the very same arrays.
"""

import io

import numpy as np
from PIL import Image

PATCH, NATIVE_GRID = 16, 6
VOCAB, TEXT_LENGTH = 100, 16
IMAGE = {"width": 64, "depth": 3, "mlp_dim": 256, "num_heads": 4}
TEXT = {"width": 48, "depth": 2, "mlp_dim": 192, "num_heads": 4}
ACTIVATIONS = ("gelu_tanh", "gelu_exact")
# Below, at and above the native 96; 100 pads every side of every picture.
RESOLUTIONS = (80, 96, 100, 128)
# Width and height: square, almost square, 4:3, 3:4, 16:9, thin both ways.
PICTURE_SIZES = (
    (200, 200),
    (150, 137),
    (160, 120),
    (120, 160),
    (256, 144),
    (300, 11),
    (9, 310),
    (64, 64),
)


def _block(rng: np.random.Generator, width: int, mlp_dim: int, num_heads: int) -> dict:
    """One transformer block by its big_vision names."""
    return {
        **_norm(rng, "LayerNorm_0", width),
        **_attention(rng, width, num_heads),
        **_norm(rng, "LayerNorm_1", width),
        **_mlp(rng, width, mlp_dim),
    }


def _normal(rng: np.random.Generator, scale: float, *shape: int) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def _norm(rng: np.random.Generator, name: str, width: int) -> dict[str, np.ndarray]:
    return {f"{name}/scale": 1 + _normal(rng, 0.3, width), f"{name}/bias": _normal(rng, 0.2, width)}


def _attention(rng: np.random.Generator, width: int, num_heads: int) -> dict[str, np.ndarray]:
    name, size = "MultiHeadDotProductAttention_0", width // num_heads
    arrays = {}
    for part, gain in (("query", 1.5), ("key", 1.5), ("value", 1.0)):
        kernel = _normal(rng, gain * width**-0.5, width, num_heads, size)
        arrays[f"{name}/{part}/kernel"] = kernel
        arrays[f"{name}/{part}/bias"] = _normal(rng, 0.2, num_heads, size)
    arrays[f"{name}/out/kernel"] = _normal(rng, width**-0.5, num_heads, size, width)
    arrays[f"{name}/out/bias"] = _normal(rng, 0.2, width)
    return arrays


def _mlp(rng: np.random.Generator, width: int, mlp_dim: int) -> dict[str, np.ndarray]:
    return {
        "MlpBlock_0/Dense_0/kernel": _normal(rng, 1.5 * width**-0.5, width, mlp_dim),
        "MlpBlock_0/Dense_0/bias": _normal(rng, 0.2, mlp_dim),
        "MlpBlock_0/Dense_1/kernel": _normal(rng, mlp_dim**-0.5, mlp_dim, width),
        "MlpBlock_0/Dense_1/bias": _normal(rng, 0.2, width),
    }


def _under(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}/{key}": value for key, value in arrays.items()}


def _encoder(rng: np.random.Generator, name: str, size: dict[str, int]) -> dict[str, np.ndarray]:
    arrays = _under(name, _norm(rng, "encoder_norm", size["width"]))
    for i in range(size["depth"]):
        block = _block(rng, size["width"], size["mlp_dim"], size["num_heads"])
        arrays |= _under(f"{name}/encoderblock_{i}", block)
    return arrays


def weights(seed: int = 1) -> dict[str, np.ndarray]:
    """A checkpoint in big_vision's layout, every array drawn at random, biases and norms too."""
    rng = np.random.default_rng(seed)
    width, text_width = IMAGE["width"], TEXT["width"]
    head = {
        "probe": _normal(rng, 1.0, 1, 1, width),
        **_attention(rng, width, IMAGE["num_heads"]),
        **_norm(rng, "LayerNorm_0", width),
        **_mlp(rng, width, IMAGE["mlp_dim"]),
    }
    patch_scale = 2 * (PATCH * PATCH * 3) ** -0.5
    return {
        "t": np.asarray([2.0], np.float32),
        "b": np.asarray([-5.0], np.float32),
        "img/embedding/kernel": _normal(rng, patch_scale, PATCH, PATCH, 3, width),
        "img/embedding/bias": _normal(rng, 0.2, width),
        "img/pos_embedding": _normal(rng, 0.7, 1, NATIVE_GRID**2, width),
        **_encoder(rng, "img/Transformer", IMAGE),
        **_under("img/MAPHead_0", head),
        "txt/Embed_0/embedding": _normal(rng, 1.0, VOCAB, text_width),
        "txt/pos_embedding": _normal(rng, 0.7, 1, TEXT_LENGTH, text_width),
        **_encoder(rng, "txt/Encoder_0", TEXT),
        "txt/head/kernel": _normal(rng, text_width**-0.5, text_width, width),
        "txt/head/bias": _normal(rng, 0.2, width),
    }


def picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Rectangles of random colours with noise; integers only, so the same on every machine."""
    canvas = np.empty((height, width, 3), np.int64)
    canvas[:] = rng.integers(0, 256, 3)
    for _ in range(6):
        top, left = rng.integers(0, height), rng.integers(0, width)
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        canvas[top:bottom, left:right] = rng.integers(0, 256, 3)
    canvas += rng.integers(-20, 21, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def pictures(seed: int = 2) -> list[np.ndarray]:
    """One [H, W, 3] uint8 picture for each of `PICTURE_SIZES`."""
    rng = np.random.default_rng(seed)
    return [picture(rng, width, height) for width, height in PICTURE_SIZES]


def png(pixels: np.ndarray) -> bytes:
    """The picture as a PNG file, which decodes to the same pixels on every machine."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def tokens(seed: int = 3, count: int = 8) -> np.ndarray:
    """[count, L] int32 texts of varied length, framed by EOS = pad = 1."""
    rng = np.random.default_rng(seed)
    rows = np.ones((count, TEXT_LENGTH), np.int32)
    for row, length in zip(rows, np.linspace(0, TEXT_LENGTH - 1, count).astype(int), strict=True):
        row[:length] = rng.integers(2, VOCAB, length)
    return rows
