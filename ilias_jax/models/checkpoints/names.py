"""Fills our parameters from another library's arrays by a table; all differences in one message.

A table is a list of `Rule`s. PyTorch stores a dense layer as [outputs, inputs], ours are [inputs,
outputs]; several of its layers are one of theirs, joined along the outputs. Blocks come one by one
in their files and are stacked in ours.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Literal

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.models.dual_encoder import DualEncoderConfig, Towers
from ilias_jax.models.parameters import Shapes, as_float32, holds_floats, parameter_shapes

Kind = Literal[
    "dense", "convolution", "patches", "vector", "tokens", "rows", "grid", "scalar", "same"
]
_NO_WEIGHTS = "biuSU"  # kinds of dtypes: sizes, counters, states, texts
_MAX_LINES, _MAX_LINE = 1000, 250  # differences in a message, and letters of each
_LOSS = {"t", "b"}  # our temperature and bias: of no use here, so that they may be missing


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of theirs.

    Attributes:
        keys: its name, with `{}` for the number of a block; further ones are other spellings. None
            for a parameter of ours that is zero.
        paths: our parameters, joined along its axis of outputs or tokens. None for a tensor that is
            known and not needed, which may be missing.
        kind: its layout: "dense" [outputs, inputs]; "convolution" [outputs, inputs, height, width],
            of a patch embedding [outputs, 3, patch, patch];
            "patches" [patch, patch, 3, outputs]; "vector" [size]; "tokens" [1, count, channels];
            "rows" [count, channels]; "grid" [1, side, side, channels]; "scalar" []; "same" as ours.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...]
    kind: Kind = "same"


@dataclasses.dataclass(frozen=True)
class Found:
    """The arrays of a file under the names of a table.

    Attributes:
        arrays: by the table's name.
        called: the table's name -> the file's, for messages.
        problems: names that the file has twice.
    """

    arrays: dict[str, np.ndarray]
    called: dict[str, str]
    problems: list[str]

    @classmethod
    def of(cls, items: Iterable[tuple[str, str, np.ndarray]]) -> "Found":
        """Collects triples of (the table's name, the file's, array)."""
        found = cls({}, {}, [])
        for name, original, value in items:
            other = found.called.setdefault(name, original)
            if name in found.arrays:
                found.problems.append(f"the same twice: {other} and {original}")
            else:
                found.arrays[name] = value
        return found


@dataclasses.dataclass(frozen=True)
class _Piece:
    """One tensor of one block, or outside of the blocks.

    Attributes:
        rule: with the number of the block in its keys.
        block: which block of ours, `...` outside of the blocks.
        shapes: of each of our parameters, within the block.
    """

    rule: Rule
    block: int | EllipsisType
    shapes: tuple[tuple[int, ...], ...]
    patch_size: int  # of the model

    @property
    def _inputs(self) -> int:
        """Inputs of a dense layer, whose axes come first in ours."""
        shape, is_out = self.shapes[0], self.rule.paths[0].endswith("attention.out.kernel")
        return math.prod(shape[:-1]) if is_out else shape[0]

    @property
    def _counts(self) -> list[int]:
        width = self.shapes[0][-1]
        channels = {"dense": self._inputs, "tokens": width, "rows": width}.get(self.rule.kind, 1)
        return [math.prod(shape) // channels for shape in self.shapes]

    @property
    def theirs(self) -> tuple[int, ...]:
        """Shape of their tensor."""
        shape, count, patch = self.shapes[0], sum(self._counts), self.patch_size
        return {
            "dense": (count, self._inputs),
            "convolution": self._kernel,
            "patches": (patch, patch, 3, shape[-1]),
            "vector": (count,),
            "tokens": (1, count, shape[-1]),
            "rows": (count, shape[-1]),
            "grid": (1, *shape),
            "scalar": (),
            "same": shape,
        }[self.rule.kind]

    @property
    def _kernel(self) -> tuple[int, ...]:
        """Shape of a convolution's kernel in PyTorch; that of patches is a matrix of ours."""
        shape, patch = self.shapes[0], self.patch_size
        height, width, inputs = shape[:3] if len(shape) == 4 else (patch, patch, 3)
        return shape[-1], inputs, height, width

    def to_ours(self, value: np.ndarray) -> list[np.ndarray]:
        """Our parameters from their tensor, of whose shape all axes of one may be missing."""
        kind, ends = self.rule.kind, np.cumsum(self._counts)[:-1].tolist()
        value = value.reshape(self.theirs)
        if kind == "convolution":
            parts = [
                value.transpose(2, 3, 1, 0)
            ]  # [outputs, inputs, h, w] -> [h, w, inputs, outputs]
        elif kind in ("dense", "vector"):
            parts = [part.T for part in np.split(value, ends)]
        elif kind in ("tokens", "rows"):
            parts = np.split(value.reshape(-1, value.shape[-1]), ends)
        else:
            parts = [value]
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `to_ours`."""
        kind = self.rule.kind
        if kind == "convolution":
            outputs, inputs, height, width = self._kernel
            return values[0].reshape(height, width, inputs, outputs).transpose(3, 2, 0, 1)
        if kind == "dense":
            return np.concatenate([value.reshape(self._inputs, -1).T for value in values])
        return np.concatenate([value.reshape(-1) for value in values]).reshape(self.theirs)


@dataclasses.dataclass(frozen=True)
class Table:
    """Everything of ours that a library's file holds, tensor by tensor.

    Attributes:
        pieces: the tensors that are needed, block by block.
        unused: names of those that are known and not needed.
        shapes: of our parameters.
    """

    pieces: Sequence[_Piece]
    unused: set[str]
    shapes: Shapes

    @classmethod
    def of(
        cls,
        rules: Sequence[Rule],
        config: DualEncoderConfig,
        towers: Towers,
        whose: str,
        source: str = "such a file",
    ) -> "Table":
        """The table of the towers' parameters.

        `whose` names the rules have, and the checkpoint's name, `source`, are for messages.

        Raises:
            UserError: the rules fill other parameters than the model's.
        """
        shapes = parameter_shapes(config, towers)
        paths = {path for rule in rules for path in rule.paths}
        if paths != shapes.keys():
            missing = ", ".join(sorted(shapes.keys() - paths)) or "nothing"
            other = ", ".join(sorted(paths - shapes.keys())) or "nothing"
            raise UserError(
                f"{source} has {whose} names and belongs to another family of models; unfilled: "
                f"{missing}; unknown to this model: {other}"
            )
        patch_size = 0 if config.image is None else config.image.patch_size
        unused = {key for rule in rules if not rule.paths for key in rule.keys}
        return cls(list(_pieces(rules, shapes, patch_size)), unused, shapes)

    def fill(
        self, found: Found, source: str, fits: Callable[[tuple, tuple], bool] = tuple.__eq__
    ) -> dict[str, np.ndarray]:
        """Our parameters from a file's arrays: path -> float32 array of our shape.

        Args:
            found: the arrays.
            source: name of the checkpoint.
            fits: (shape in the file, shape in the table) -> whether one can be read as the other.

        Raises:
            UserError: one message with every unmapped key, unfilled parameter and wrong shape.
        """
        if problems := [*found.problems, *self._problems(found, fits)]:
            head = f"{source} does not fit the model; {len(problems)} differences:"
            lines = [problem[:_MAX_LINE] for problem in problems[:_MAX_LINES]]
            rest = [f"and {len(problems) - _MAX_LINES:,} more"] if problems[_MAX_LINES:] else []
            raise UserError("\n  ".join([head, *lines, *rest]))
        filled = {path: np.zeros(shape, np.float32) for path, shape in self.shapes.items()}
        for piece in self.pieces:
            for key in found.arrays.keys() & set(piece.rule.keys):
                parts = piece.to_ours(as_float32(found.arrays[key]))
                for path, part in zip(piece.rule.paths, parts, strict=True):
                    filled[path][piece.block] = part
        return filled

    def _problems(self, found: Found, fits: Callable[[tuple, tuple], bool]) -> Iterator[str]:
        arrays, called = found.arrays, found.called
        known = self.unused.union(*(piece.rule.keys for piece in self.pieces))
        for key in sorted(arrays.keys() - known):
            if arrays[key].dtype.kind not in _NO_WEIGHTS:
                yield f"unmapped key: {called[key]}"
        for piece in self.pieces:
            keys, want = [key for key in piece.rule.keys if key in arrays], piece.theirs
            if len(keys) > 1:
                yield f"the same twice: {' and '.join(called[key] for key in keys)}"
            elif not keys and piece.rule.keys and _LOSS.isdisjoint(piece.rule.paths):
                yield f"unfilled parameter: {piece.rule.keys[0]} of shape {want}"
            elif keys and not fits(arrays[keys[0]].shape, want):
                shape = arrays[keys[0]].shape
                yield f"wrong shape: {called[keys[0]]} is {shape}, expected {want}"
            elif keys and not holds_floats(dtype := arrays[keys[0]].dtype):
                yield f"no floats: {called[keys[0]]} is {dtype}; quantised weights are not read"

    def write(self, parameters: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Yields their (name, array) pairs from our parameters."""
        for piece in self.pieces:
            if piece.rule.keys:
                values = [np.asarray(parameters[path])[piece.block] for path in piece.rule.paths]
                yield piece.rule.keys[0], piece.to_theirs(values)


def _pieces(rules: Iterable[Rule], shapes: Shapes, patch_size: int) -> Iterator[_Piece]:
    for rule in rules:
        ours = tuple(shapes[path] for path in rule.paths)
        if ours and ".encoder.blocks." not in rule.paths[0]:
            yield _Piece(rule, ..., ours, patch_size)
            continue
        within = tuple(shape[1:] for shape in ours)
        for i in range(ours[0][0] if ours else 0):
            numbered = Rule(tuple(key.format(i) for key in rule.keys), rule.paths, rule.kind)
            yield _Piece(numbered, i, within, patch_size)
