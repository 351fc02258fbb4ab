"""Reads and writes the checkpoints of PyTorch's models by the tables of `torch_names`.

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
    require_family,
    require_fit,
)
from ilias_jax.towers.torch_names import (
    TIMM,
    TIMM_AND_TEXT,
    Kind,
    Names,
    Rule,
    is_beside,
    is_of_text,
    names_of,
    rules_of,
    unwrapped,
)
from ilias_jax.towers.two_towers import TowersConfig

_BIAS_MASK = "bias_mask"  # of DINOv3: zero where the bias of a projection has no effect


@dataclasses.dataclass(frozen=True)
class _Piece:
    """One tensor of one block, or outside of the blocks.

    Attributes:
        keys: its name, and other spellings of it.
        paths: our parameters, joined along its axis of outputs or tokens.
        block: which block of ours, `...` outside of the blocks.
        shapes: of each of our parameters, within the block.
        kind: see `Rule`.
        patch_size: of the model.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...]
    block: int | EllipsisType
    shapes: tuple[tuple[int, ...], ...]
    kind: Kind
    patch_size: int

    @property
    def inputs(self) -> int:
        """Inputs of a dense layer, whose axes come first in ours."""
        shape, is_out = self.shapes[0], self.paths[0].endswith("attention.out.kernel")
        return math.prod(shape[:-1]) if is_out else shape[0]

    @property
    def counts(self) -> tuple[int, ...]:
        """Outputs or tokens of each of our parameters."""
        width = self.shapes[0][-1]
        channels = {"dense": self.inputs, "tokens": width, "rows": width}.get(self.kind, 1)
        return tuple(math.prod(shape) // channels for shape in self.shapes)

    @property
    def theirs(self) -> tuple[int, ...]:
        """Shape of their tensor."""
        shape, count = self.shapes[0], sum(self.counts)
        patch = self.patch_size
        return {
            "dense": (count, self.inputs),
            "matrix": shape,
            "convolution": (shape[-1], 3, patch, patch),
            "vector": (count,),
            "tokens": (1, count, shape[-1]),
            "rows": (count, shape[-1]),
            "grid": (1, *shape),
            "scalar": (),
            "same": shape,
        }[self.kind]

    def to_ours(self, value: np.ndarray) -> list[np.ndarray]:
        """Our parameters from their tensor."""
        if self.kind == "convolution":
            parts = [value.transpose(2, 3, 1, 0)]  # [D, 3, p, p] -> [p, p, 3, D]
        elif self.kind in ("dense", "vector"):
            parts = [part.T for part in np.split(value, self._ends)]
        elif self.kind in ("tokens", "rows"):
            parts = np.split(value.reshape(-1, value.shape[-1]), self._ends)
        else:
            parts = [value]
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    @property
    def _ends(self) -> list[int]:
        """Where to split."""
        return np.cumsum(self.counts)[:-1].tolist()

    def to_theirs(self, values: list[np.ndarray]) -> np.ndarray:
        """The inverse of `to_ours`."""
        first, patch = values[0], self.patch_size
        if self.kind == "convolution":
            return first.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)
        if self.kind == "dense":
            return np.concatenate([value.reshape(self.inputs, -1).T for value in values])
        if self.kind in ("tokens", "rows"):
            values = [value.reshape(-1, value.shape[-1]) for value in values]
            return np.concatenate(values).reshape(self.theirs)
        if self.kind == "vector":
            return np.concatenate([value.reshape(-1) for value in values])
        return first.reshape(self.theirs)


def _pieces(rules: Iterable[Rule], shapes: Shapes, patch_size: int) -> Iterator[_Piece]:
    """Every tensor of theirs that is needed, block by block."""
    for rule in rules:
        if not rule.paths:
            continue
        ours = tuple(shapes[path] for path in rule.paths)
        if ".blocks." not in rule.paths[0]:
            yield _Piece(rule.keys, rule.paths, ..., ours, rule.kind, patch_size)
            continue
        within = tuple(shape[1:] for shape in ours)
        for i in range(ours[0][0]):
            keys = tuple(key.format(i) for key in rule.keys)
            yield _Piece(keys, rule.paths, i, within, rule.kind, patch_size)


def _table(
    config: TowersConfig, names: Names, towers: Towers, source: str = "such a file"
) -> tuple[list[_Piece], set[str], Shapes]:
    """The tensors that are needed, the names of those that are not, and our shapes."""
    rules, shapes = rules_of(config, names, towers), parameter_shapes(config, towers)
    whose = {"timm": "timm's", "clip": "CLIP's", None: "open_clip's"}[names.image]
    require_family(source, whose, (path for rule in rules for path in rule.paths), shapes)
    patch_size = 0 if config.image is None else config.image.patch_size
    unused = {key for rule in rules if not rule.paths for key in rule.keys}
    return list(_pieces(rules, shapes, patch_size)), unused, shapes


def from_arrays(
    arrays: Mapping[str, np.ndarray], config: TowersConfig, source: str, towers: Towers = "both"
) -> dict[str, np.ndarray]:
    """Maps a checkpoint's arrays to our parameters.

    Args:
        arrays: name -> array; may be views of a file.
        config: the architecture that the checkpoint must have.
        source: name of the checkpoint for messages.
        towers: "image" or "text" to take one tower alone, whatever else is there.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: one message with every unmapped key, unfilled parameter and wrong shape.
    """
    called: dict[str, str] = {}  # our name for a tensor -> the file's, for the messages
    twice = []
    for key in arrays:
        other = called.setdefault(unwrapped(key), key)
        if other != key and not is_beside(unwrapped(key)):
            twice.append(f"the same twice: {other} and {key}")
    found = {key: arrays[original] for key, original in called.items() if not is_beside(key)}
    names = names_of(found)
    wanted = _apply_masks(_of_towers(found, names, towers))
    pieces, unused, shapes = _table(config, names, towers, source)
    require_fit(source, twice + _problems(wanted, pieces, unused, called))
    filled = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    for piece in pieces:
        for key in wanted.keys() & set(piece.keys):
            value = as_float32(wanted[key]).reshape(piece.theirs)
            for path, part in zip(piece.paths, piece.to_ours(value), strict=True):
                filled[path][piece.block] = part
    return filled


def _of_towers(
    arrays: Mapping[str, np.ndarray], names: Names, towers: Towers
) -> dict[str, np.ndarray]:
    """Without the arrays of a tower that nobody asked for; what is in no tower stays."""
    if towers == "both":
        return dict(arrays)
    if towers == "image":
        return {key: value for key, value in arrays.items() if not is_of_text(key, names)}
    loss = ("logit_scale", "logit_bias")
    return {k: value for k, value in arrays.items() if is_of_text(k, names) and k not in loss}


def _apply_masks(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With DINOv3's masks multiplied into the biases that they mask, as at every step there."""
    masked = {key: value for key, value in arrays.items() if not key.endswith(_BIAS_MASK)}
    for key in arrays.keys() - masked.keys():
        bias = key.removesuffix("_mask")
        if bias in masked and masked[bias].shape == arrays[key].shape:
            masked[bias] = as_float32(masked[bias]) * as_float32(arrays[key])
    return masked


def _problems(
    arrays: Mapping[str, np.ndarray],
    pieces: Iterable[_Piece],
    unused: set[str],
    called: Mapping[str, str],
) -> list[str]:
    """Every difference between a file and the model; `called` has the names in the file."""
    pieces = list(pieces)
    known = unused.union(*(piece.keys for piece in pieces))
    problems = [f"unmapped key: {called[key]}" for key in sorted(arrays.keys() - known)]
    for piece in pieces:
        keys, want = [key for key in piece.keys if key in arrays], piece.theirs
        if len(keys) > 1:
            problems.append(f"the same twice: {' and '.join(called[key] for key in keys)}")
        elif piece.keys and not keys:
            problems.append(f"unfilled parameter: {piece.keys[0]} of shape {want}")
        elif keys and arrays[keys[0]].shape != want:
            found = arrays[keys[0]].shape
            problems.append(f"wrong shape: {called[keys[0]]} is {found}, expected {want}")
    return problems


def _usual_names(towers: Towers) -> Names:
    """timm's of an image tower; open_clip's of both, with timm's image tower."""
    return TIMM if towers == "image" else TIMM_AND_TEXT


def to_arrays(
    parameters: Mapping[str, np.ndarray],
    config: TowersConfig,
    towers: Towers = "both",
    names: Names | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array) pairs from our parameters.

    Args:
        parameters: path -> array.
        config: the architecture.
        towers: whose.
        names: whose names; None for open_clip's, or timm's of the image tower alone.
    """
    pieces, _, _ = _table(config, names or _usual_names(towers), towers)
    for piece in pieces:
        if piece.keys:
            values = [np.asarray(parameters[path])[piece.block] for path in piece.paths]
            yield piece.keys[0], piece.to_theirs(values)


def layout(config: TowersConfig, towers: Towers = "both", names: Names | None = None) -> Shapes:
    """Name -> shape of every tensor that `to_arrays` writes."""
    pieces, _, _ = _table(config, names or _usual_names(towers), towers)
    return {piece.keys[0]: piece.theirs for piece in pieces if piece.keys}
