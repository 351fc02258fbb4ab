"""SigLIP weights, pictures and texts that a seed defines, in plain numpy.

Shared by the parity tests and `tests/reference/make_parity_values.py`, which runs the reference
implementations on the very same arrays. Every number comes from the raw stream of a bit generator,
which numpy promises never to change, through integers: the arrays are the same bits everywhere.
"""

import dataclasses
import io
import math
import zlib

import numpy as np
from PIL import Image

PATCH, NATIVE_GRID = 16, 6
VOCAB, TEXT_LENGTH = 100, 16
IMAGE = {"width": 64, "depth": 3, "mlp_dim": 256, "num_heads": 4}
TEXT = {"width": 48, "depth": 2, "mlp_dim": 192, "num_heads": 4}
ACTIVATIONS = ("gelu_tanh", "gelu_exact")
# Below, at and above the native 96; 100 pads every side of every picture.
RESOLUTIONS = (80, 96, 100, 128)
# TransformerSize and height: square, almost square, 4:3, 3:4, 16:9, thin both ways.
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
SEED = 1
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of both towers; `image` and `text` by the names of `models.layers.TransformerSize`.

    Without `text_head` the text tower has no dense layer at its end and is as wide as the image
    tower.
    """

    image: dict[str, int]
    text: dict[str, int]
    patch: int
    native_grid: int
    vocab: int
    text_length: int
    text_head: bool = True


@dataclasses.dataclass(frozen=True)
class Drawn:
    """How an array is drawn: offset + scale * x, x uniform with mean 0 and variance 1."""

    shape: tuple[int, ...]
    scale: float
    offset: float = 0.0


SMALL = Sizes(IMAGE, TEXT, PATCH, NATIVE_GRID, VOCAB, TEXT_LENGTH)
Layout = dict[str, Drawn]


def _under(name: str, layout: Layout) -> Layout:
    return {f"{name}/{key}": value for key, value in layout.items()}


def _norm(name: str, width: int) -> Layout:
    return {
        f"{name}/scale": Drawn((width,), 0.3, 1.0),
        f"{name}/bias": Drawn((width,), 0.2),
    }


def _attention(width: int, num_heads: int) -> Layout:
    name, size = "MultiHeadDotProductAttention_0", width // num_heads
    layout = {}
    for part, gain in (("query", 1.5), ("key", 1.5), ("value", 1.0)):
        layout[f"{name}/{part}/kernel"] = Drawn((width, num_heads, size), gain * width**-0.5)
        layout[f"{name}/{part}/bias"] = Drawn((num_heads, size), 0.2)
    layout[f"{name}/out/kernel"] = Drawn((num_heads, size, width), width**-0.5)
    layout[f"{name}/out/bias"] = Drawn((width,), 0.2)
    return layout


def _mlp(width: int, mlp_dim: int) -> Layout:
    return {
        "MlpBlock_0/Dense_0/kernel": Drawn((width, mlp_dim), 1.5 * width**-0.5),
        "MlpBlock_0/Dense_0/bias": Drawn((mlp_dim,), 0.2),
        "MlpBlock_0/Dense_1/kernel": Drawn((mlp_dim, width), mlp_dim**-0.5),
        "MlpBlock_0/Dense_1/bias": Drawn((width,), 0.2),
    }


def _encoder(name: str, size: dict[str, int]) -> Layout:
    width = size["width"]
    block = {
        **_norm("LayerNorm_0", width),
        **_attention(width, size["num_heads"]),
        **_norm("LayerNorm_1", width),
        **_mlp(width, size["mlp_dim"]),
    }
    layout = _under(name, _norm("encoder_norm", width))
    for i in range(size["depth"]):
        layout |= _under(f"{name}/encoderblock_{i}", block)
    return layout


def image_layout(sizes: Sizes) -> Layout:
    """The image tower of a big_vision checkpoint."""
    width, patch = sizes.image["width"], sizes.patch
    head = {
        "probe": Drawn((1, 1, width), 1.0),
        **_attention(width, sizes.image["num_heads"]),
        **_norm("LayerNorm_0", width),
        **_mlp(width, sizes.image["mlp_dim"]),
    }
    return {
        "img/embedding/kernel": Drawn((patch, patch, 3, width), 2 * (patch * patch * 3) ** -0.5),
        "img/embedding/bias": Drawn((width,), 0.2),
        "img/pos_embedding": Drawn((1, sizes.native_grid**2, width), 0.7),
        **_encoder("img/Transformer", sizes.image),
        **_under("img/MAPHead_0", head),
    }


def text_layout(sizes: Sizes) -> Layout:
    """The text tower of a big_vision checkpoint."""
    width, out = sizes.text["width"], sizes.image["width"]
    head = {
        "txt/head/kernel": Drawn((width, out), width**-0.5),
        "txt/head/bias": Drawn((out,), 0.2),
    }
    return {
        "txt/Embed_0/embedding": Drawn((sizes.vocab, width), 1.0),
        "txt/pos_embedding": Drawn((1, sizes.text_length, width), 0.7),
        **_encoder("txt/Encoder_0", sizes.text),
        **(head if sizes.text_head else {}),
    }


def draw(layout: Layout, seed: int = SEED) -> Arrays:
    """float32 arrays, each from a stream of its own that its name and the seed define."""
    return {key: _draw(drawn, [seed, zlib.crc32(key.encode())]) for key, drawn in layout.items()}


def _draw(drawn: Drawn, seed: list[int]) -> np.ndarray:
    count = math.prod(drawn.shape)
    raw = np.random.PCG64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    array = raw.astype(np.float32)
    array *= np.float32(drawn.scale * 3**0.5 / 2**15)
    if drawn.offset:
        array += np.float32(drawn.offset)
    return array.reshape(drawn.shape)


def weights(sizes: Sizes = SMALL, seed: int = SEED) -> Arrays:
    """A checkpoint in big_vision's layout, every array drawn, biases and norms too."""
    loss = {"t": np.asarray([2.0], np.float32), "b": np.asarray([-5.0], np.float32)}
    return loss | draw(image_layout(sizes), seed) | draw(text_layout(sizes), seed)


def fingerprint(arrays: Arrays) -> np.ndarray:
    """[N, 4] float32: four values of each of N arrays, which tell whether all are as they were."""
    return np.stack([value.ravel()[:: max(1, value.size // 4)][:4] for value in arrays.values()])


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


def pictures(sizes: tuple[tuple[int, int], ...] = PICTURE_SIZES, seed: int = 2) -> list[np.ndarray]:
    """One [H, W, 3] uint8 picture for each (width, height)."""
    rng = np.random.default_rng(seed)
    return [picture(rng, width, height) for width, height in sizes]


def png(pixels: np.ndarray) -> bytes:
    """The picture as a PNG file, which decodes to the same pixels on every machine."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def tokens(sizes: Sizes = SMALL, seed: int = 3, count: int = 8) -> np.ndarray:
    """[count, L] int32 texts of varied length, framed by EOS = pad = 1."""
    rng = np.random.default_rng(seed)
    length = sizes.text_length
    rows = np.ones((count, length), np.int32)
    for row, filled in zip(rows, np.linspace(0, length - 1, count).astype(int), strict=True):
        row[:filled] = rng.integers(2, sizes.vocab, filled)
    return rows
