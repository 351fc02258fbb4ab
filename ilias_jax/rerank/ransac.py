"""RANSAC (Fischler and Bolles, 1981) of affine maps between matches, the same on every device.

Hypotheses are drawn once. They pick among the matches of a pair by number, so that neither padding
nor other pairs change what they pick.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

HYPOTHESES = 1000
_SAMPLE = 3  # matches that an affine map goes through; as few are no evidence
# Least determinant of a matrix over its squared norm: below it, points lie on a line.
_LEAST = 1e-3


class Matches(NamedTuple):
    """Places [n, 2] in the database image and in the query; those of `real` [n] match."""

    sources: jax.Array
    targets: jax.Array
    real: jax.Array


class Maps(NamedTuple):
    """Affine maps x -> linear (x - source) + target: [..., 2, 2] and [..., 2] twice."""

    linear: jax.Array
    source: jax.Array
    target: jax.Array
    is_valid: jax.Array


def draws(seed: int) -> jax.Array:
    """[HYPOTHESES, 3] float32 in [0, 1): the matches that each hypothesis goes through."""
    return jax.random.uniform(jax.random.key(seed), (HYPOTHESES, _SAMPLE), jnp.float32)


def count_inliers(matches: Matches, drawn: jax.Array, residual: jax.Array) -> jax.Array:
    """Matches that the best map explains, [] float32.

    The best of the drawn hypotheses is fitted again to its inliers by least squares, and counts
    that way if it explains more.

    Args:
        matches: n of a pair.
        drawn: see `draws`.
        residual: [] float32, largest distance in the query, as a share of its side, exclusive.

    Returns:
        The number; 0 if there are at most three matches, or all hypotheses are degenerate.
    """
    number = matches.real.sum(dtype=jnp.int32)
    maps = _through(matches, samples(matches.real, number, drawn))
    counts = jnp.where(maps.is_valid, _inliers(maps, matches, residual).sum(axis=1), 0)
    best = Maps(*(part[jnp.argmax(counts)] for part in maps))
    fitted = _fit(matches, _inliers(best, matches, residual) & best.is_valid)
    again = jnp.where(fitted.is_valid, _inliers(fitted, matches, residual).sum(), 0)
    found = jnp.maximum(counts.max(), again)
    return jnp.where(number > _SAMPLE, found, 0).astype(jnp.float32)


def samples(real: jax.Array, number: jax.Array, drawn: jax.Array) -> jax.Array:
    """Matches that hypotheses go through.

    Args:
        real: [n] bool.
        number: [] int32 how many are real.
        drawn: [H, 3]; see `draws`. Number i of a row picks among the matches that are left, in
            their order.

    Returns:
        [H, 3] int32, different ones in a row if there are three.
    """
    left = number - jnp.arange(_SAMPLE, dtype=jnp.int32)  # to draw from: each is drawn once
    picked = jnp.clip((drawn * left).astype(jnp.int32), 0, jnp.maximum(left - 1, 0))
    first, second, third = picked.T
    second = second + (second >= first)
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    third = third + (third >= low)
    third = third + (third >= high)
    return jnp.argsort(~real, stable=True)[jnp.stack([first, second, third], axis=1)]


def _through(matches: Matches, samples: jax.Array) -> Maps:
    """The maps through three matches each, samples [H, 3]."""
    sources, targets = matches.sources[samples], matches.targets[samples]
    own, other = (
        jnp.swapaxes(points[:, 1:] - points[:, :1], 1, 2) for points in (sources, targets)
    )
    return _map(own, other, sources[:, 0], targets[:, 0])


def _fit(matches: Matches, chosen: jax.Array) -> Maps:
    """The map of least squares through chosen matches [n] bool."""
    weights = chosen.astype(jnp.float32)
    weights = (weights / jnp.maximum(weights.sum(), 1.0))[:, None]
    source, target = ((weights * points).sum(axis=0) for points in matches[:2])
    sources, targets = matches.sources - source, matches.targets - target
    own, other = (
        (points[:, :, None] * (weights * sources)[:, None, :]).sum(axis=0)
        for points in (sources, targets)
    )
    return _map(own, other, source, target)


def _map(own: jax.Array, other: jax.Array, source: jax.Array, target: jax.Array) -> Maps:
    """Maps of linear part other own^-1, matrices [..., 2, 2], between origins [..., 2].

    They are degenerate if either matrix is, so that none takes a picture to a line.
    """
    is_valid = _is_regular(own) & _is_regular(other)
    (a, b), (c, d) = jnp.moveaxis(own, (-2, -1), (0, 1))
    adjugate = jnp.stack([jnp.stack([d, -b], axis=-1), jnp.stack([-c, a], axis=-1)], axis=-2)
    inverse = adjugate / jnp.where(is_valid, a * d - b * c, 1.0)[..., None, None]
    linear = (other[..., :, :, None] * inverse[..., None, :, :]).sum(axis=-2)
    return Maps(linear, source, target, is_valid)


def _is_regular(matrix: jax.Array) -> jax.Array:
    (a, b), (c, d) = jnp.moveaxis(matrix, (-2, -1), (0, 1))
    return jnp.abs(a * d - b * c) > _LEAST * jnp.square(matrix).sum(axis=(-2, -1))


def _inliers(maps: Maps, matches: Matches, residual: jax.Array) -> jax.Array:
    """[..., n] bool: matches that maps [...] explain."""
    offsets = [matches.sources[:, i] - maps.source[..., i, None] for i in range(2)]
    squares = [
        jnp.square(
            maps.linear[..., i, 0, None] * offsets[0]
            + maps.linear[..., i, 1, None] * offsets[1]
            + (maps.target[..., i, None] - matches.targets[:, i])
        )
        for i in range(2)
    ]
    return matches.real & (squares[0] + squares[1] < jnp.square(residual))
