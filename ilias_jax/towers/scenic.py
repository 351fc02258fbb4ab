"""Reads checkpoints of Scenic's ViT and CLIP, which USCRR and UDON were trained from.

A train state's arrays have names below `params/`. Layers lie there as in ours, blocks one by one.
Beside the tower are a projection to 64 channels, which the benchmark's numbers do without, and what
the losses of the training needed.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.towers.parameters import (
    Towers,
    as_float32,
    parameter_shapes,
    require_family,
    require_fit,
)
from ilias_jax.towers.two_towers import TowersConfig

_NORM = {"scale": "scale", "bias": "bias"}
_DENSE = {"kernel": "kernel", "bias": "bias"}
_ATTENTION = {
    f"{part}/{leaf}": f"{part}.{leaf}"
    for part in ("query", "key", "value", "out")
    for leaf in _DENSE
}
_PARAMS = "params/"
# The other parts of a train state, and of its parameters those that belong to a loss.
_BESIDE = re.compile(
    r"^(opt_state|model_state|metadata)/|^rng$"
    r"|^params/(output_projection|teacher_projection|teacher_output_projection)"
    r"|^params/(universal_student_output_projection|universal_student_projection|projection)"
)


def _under(theirs: str, ours: str, table: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}/{key}": f"{ours}.{value}" for key, value in table.items()}


_BLOCKS = "image.encoder.blocks"
_CLIP = {
    "conv1/kernel": "image.embedding.kernel",
    "class_embedding": "image.class_token",
    **_under("ln_pre", "image.pre_norm", _NORM),
    **_under("transformer/resblocks.{}/ln_1", f"{_BLOCKS}.norm1", _NORM),
    **_under("transformer/resblocks.{}/attn", f"{_BLOCKS}.attention", _ATTENTION),
    **_under("transformer/resblocks.{}/ln_2", f"{_BLOCKS}.norm2", _NORM),
    **_under("transformer/resblocks.{}/mlp/c_fc", f"{_BLOCKS}.mlp.up", _DENSE),
    **_under("transformer/resblocks.{}/mlp/c_proj", f"{_BLOCKS}.mlp.down", _DENSE),
    **_under("ln_post", "image.encoder.norm", _NORM),
}
_CLIP_POSITIONS = "positional_embedding"
_BLOCK = "Transformer/encoderblock_{}"
_VIT = {
    **_under("embedding", "image.embedding", _DENSE),
    "cls": "image.class_token",
    **_under(f"{_BLOCK}/LayerNorm_0", f"{_BLOCKS}.norm1", _NORM),
    **_under(f"{_BLOCK}/MultiHeadDotProductAttention_0", f"{_BLOCKS}.attention", _ATTENTION),
    **_under(f"{_BLOCK}/LayerNorm_1", f"{_BLOCKS}.norm2", _NORM),
    **_under(f"{_BLOCK}/MlpBlock_0/Dense_0", f"{_BLOCKS}.mlp.up", _DENSE),
    **_under(f"{_BLOCK}/MlpBlock_0/Dense_1", f"{_BLOCKS}.mlp.down", _DENSE),
    **_under("Transformer/encoder_norm", "image.encoder.norm", _NORM),
}
_VIT_POSITIONS = "Transformer/posembed_input/pos_embedding"
_POSITIONS = ("image.class_position", "image.position")


def _pieces(config: TowersConfig) -> Iterator[tuple[str, str, int | None, tuple[int, ...]]]:
    """Every tensor but the positions: its name, our parameter, which block, and its size."""
    assert config.image is not None
    shapes = parameter_shapes(config, "image")
    for key, path in (_CLIP if config.image.pre_norm else _VIT).items():
        if "{}" not in key:
            yield key, path, None, shapes[path]
            continue
        for i in range(config.image.size.depth):
            yield key.format(i), path, i, shapes[path][1:]


def from_arrays(
    arrays: Mapping[str, np.ndarray], config: TowersConfig, source: str, towers: Towers = "image"
) -> dict[str, np.ndarray]:
    """Maps a train state's arrays to our parameters.

    Args:
        arrays: names joined by "/" -> array.
        config: the architecture that the checkpoint must have.
        source: name of the checkpoint for messages.
        towers: these files have an image tower alone.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: one message with every unmapped key, unfilled parameter and wrong shape; or a
            text tower is asked for.
    """
    if towers != "image":
        raise UserError(
            f"{source} is a checkpoint of Scenic, which has no text tower: run image queries alone "
            "with model.towers=image"
        )
    image = config.image
    assert image is not None
    found = {
        key.removeprefix(_PARAMS): value for key, value in arrays.items() if not _BESIDE.search(key)
    }
    table = _CLIP if image.pre_norm else _VIT
    shapes = parameter_shapes(config, "image")
    require_family(source, "Scenic's", [*table.values(), *_POSITIONS], shapes)
    positions = _CLIP_POSITIONS if image.pre_norm else _VIT_POSITIONS
    pieces = list(_pieces(config))
    known = {positions, *(key for key, *_ in pieces)}
    problems = [f"unmapped key: {_PARAMS}{key}" for key in sorted(found.keys() - known)]
    filled = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    for key, path, block, shape in pieces:
        value = _taken(found, key, shape, problems)
        if value is not None:
            filled[path][... if block is None else block] = value
    rows = (1 + image.native_grid**2, image.size.width)
    value = _taken(found, positions, rows, problems)
    if value is not None:
        for path, part in zip(_POSITIONS, np.split(value, [1]), strict=True):
            filled[path] = part.reshape(shapes[path])
    require_fit(source, problems)
    return filled


def _taken(
    arrays: Mapping[str, np.ndarray], key: str, shape: tuple[int, ...], problems: list[str]
) -> np.ndarray | None:
    """An array in our shape; None and a problem if it is missing or of another size.

    A patch embedding is a convolution there, and positions and the class token may have a leading
    axis of one, so that sizes are compared from the last axis on.
    """
    if key not in arrays:
        problems.append(f"unfilled parameter: {_PARAMS}{key} of shape {shape}")
        return None
    value = arrays[key]
    if value.size != np.prod(shape) or value.shape[-1] != shape[-1]:
        problems.append(f"wrong shape: {_PARAMS}{key} is {value.shape}, expected {shape}")
        return None
    return as_float32(value).reshape(shape)
