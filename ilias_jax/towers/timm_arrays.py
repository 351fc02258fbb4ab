"""Reads and writes timm's and open_clip's SigLIP checkpoints.

PyTorch stores a dense layer as [outputs, inputs], ours are [inputs, outputs]; several of its layers
are one of theirs, joined along the outputs; its blocks come one by one, ours are stacked.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from types import EllipsisType

import numpy as np

from ilias_jax.towers.parameters import (
    Shapes,
    Towers,
    as_float32,
    parameter_shapes,
    require_fit,
)
from ilias_jax.towers.siglip import SiglipConfig
from ilias_jax.towers.timm_names import Rule, rules_of, towers_of


@dataclasses.dataclass(frozen=True)
class _Piece:
    """One tensor of one block, or outside of the blocks.

    Attributes:
        key: its name.
        paths: our parameters, joined along its first axis.
        block: which block of ours, `...` outside of the blocks.
        shape: of each of our parameters, within the block.
    """

    key: str
    paths: tuple[str, ...]
    block: int | EllipsisType
    shape: tuple[int, ...]

    @property
    def is_convolution(self) -> bool:
        """Whether it embeds patches by a convolution."""
        return self.key.endswith("patch_embed.proj.weight")

    @property
    def inputs(self) -> int:
        """Inputs of a dense layer, whose axes come first in ours."""
        is_out = self.paths[0].endswith("attention.out.kernel")
        return math.prod(self.shape[:-1]) if is_out else self.shape[0]


def _pieces(rules: Iterable[Rule], shapes: Shapes) -> Iterator[_Piece]:
    """Every tensor of theirs, block by block."""
    for rule in rules:
        stacked = shapes[rule.paths[0]]
        if "{}" not in rule.key:
            yield _Piece(rule.key, rule.paths, ..., stacked)
            continue
        for i in range(stacked[0]):
            yield _Piece(rule.key.format(i), rule.paths, i, stacked[1:])


def _theirs_shape(piece: _Piece, config: SiglipConfig) -> tuple[int, ...]:
    """Shape that a single one of our parameters has in theirs."""
    path, shape = piece.paths[0], piece.shape
    if path in ("t", "b"):
        return ()
    if path == "image.position":
        side, width = config.native_grid, shape[-1]
        return (1, side, side, width) if config.naflex else (1, side * side, width)
    if piece.is_convolution:
        return (shape[1], 3, config.patch_size, config.patch_size)
    if path.endswith(".kernel"):
        return (math.prod(shape) // piece.inputs, piece.inputs)
    return (math.prod(shape),) if path.endswith(".bias") else shape


def _joined_shape(piece: _Piece, config: SiglipConfig) -> tuple[int, ...]:
    """Shape of their tensor."""
    first, *rest = _theirs_shape(piece, config) or (None,)
    return () if first is None else (first * len(piece.paths), *rest)


def _to_ours(value: np.ndarray, piece: _Piece) -> np.ndarray:
    """One of our parameters from its part of their tensor."""
    if piece.is_convolution:
        value = value.transpose(2, 3, 1, 0)  # [D, 3, p, p] -> [p, p, 3, D]
    elif piece.paths[0].endswith(".kernel"):
        value = value.T
    return value.reshape(piece.shape)


def _to_theirs(value: np.ndarray, piece: _Piece, config: SiglipConfig) -> np.ndarray:
    """The inverse of `_to_ours`."""
    if piece.is_convolution:
        value = value.reshape(config.patch_size, config.patch_size, 3, -1).transpose(3, 2, 0, 1)
    elif piece.paths[0].endswith(".kernel"):
        value = value.reshape(piece.inputs, -1).T
    return value.reshape(_theirs_shape(piece, config))


def from_arrays(
    arrays: Mapping[str, np.ndarray], config: SiglipConfig, source: str, towers: Towers = "both"
) -> dict[str, np.ndarray]:
    """Maps a checkpoint's arrays to our parameters.

    Args:
        arrays: name -> array; may be views of a file.
        config: the architecture that the checkpoint must have.
        source: name of the checkpoint for messages.
        towers: "image" to take the image tower alone, whatever else is there.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: one message with every unmapped key, unfilled parameter and wrong shape.
    """
    in_both = towers_of(arrays) == "both"
    wanted = arrays if towers == "both" else _of_image(arrays)
    shapes = parameter_shapes(config, towers)
    pieces = list(_pieces(rules_of(config, towers, in_both=in_both), shapes))
    problems = [f"unmapped key: {key}" for key in sorted(wanted.keys() - {p.key for p in pieces})]
    for piece in pieces:
        want = _joined_shape(piece, config)
        if piece.key not in wanted:
            problems.append(f"unfilled parameter: {piece.key} of shape {want}")
        elif wanted[piece.key].shape != want:
            found = wanted[piece.key].shape
            problems.append(f"wrong shape: {piece.key} is {found}, expected {want}")
    require_fit(source, problems)
    filled = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    for piece in pieces:
        value = as_float32(wanted[piece.key])
        parts = np.split(value, len(piece.paths)) if value.ndim else [value]
        for path, part in zip(piece.paths, parts, strict=True):
            filled[path][piece.block] = _to_ours(part, piece)
    return filled


def _of_image(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the arrays of a text tower; what is in no tower stays."""
    others = ("logit_scale", "logit_bias")
    return {
        key: value
        for key, value in arrays.items()
        if not key.startswith("text.") and key not in others
    }


def to_arrays(
    parameters: Mapping[str, np.ndarray], config: SiglipConfig, towers: Towers = "both"
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array) pairs from our parameters: open_clip's, or timm's of the image tower."""
    in_both = towers == "both"
    shapes = parameter_shapes(config, towers)
    for piece in _pieces(rules_of(config, towers, in_both=in_both), shapes):
        parts = [
            _to_theirs(np.asarray(parameters[path])[piece.block], piece, config)
            for path in piece.paths
        ]
        yield piece.key, np.concatenate(parts) if len(parts) > 1 else parts[0]


def layout(config: SiglipConfig, towers: Towers = "both") -> Shapes:
    """Name -> shape of every tensor in a file: open_clip's, or timm's of the image tower."""
    rules = rules_of(config, towers, in_both=towers == "both")
    pieces = _pieces(rules, parameter_shapes(config, towers))
    return {piece.key: _joined_shape(piece, config) for piece in pieces}
