"""Writes checkpoints in PyTorch's names from our parameters, by the tables that read them."""

from collections.abc import Iterator, Mapping

import numpy as np

from ilias_jax.models.checkpoints.names import Table
from ilias_jax.models.checkpoints.torch_names import TIMM, TIMM_AND_TEXT, Names, rules_of
from ilias_jax.models.dual_encoder import DualEncoderConfig, Towers
from ilias_jax.models.parameters import Shapes


def _table(config: DualEncoderConfig, towers: Towers, names: Names | None) -> Table:
    usual = TIMM if towers == "image" else TIMM_AND_TEXT
    return Table.of(rules_of(config, names or usual, towers), config, towers, "these")


def to_torch(
    parameters: Mapping[str, np.ndarray],
    config: DualEncoderConfig,
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
    return _table(config, towers, names).write(parameters)


def layout(
    config: DualEncoderConfig, towers: Towers = "both", names: Names | None = None
) -> Shapes:
    """Name -> shape of every tensor that `to_torch` writes."""
    pieces = _table(config, towers, names).pieces
    return {piece.rule.keys[0]: piece.theirs for piece in pieces if piece.rule.keys}
