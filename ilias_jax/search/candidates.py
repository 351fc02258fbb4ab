"""Finds the few scores of a block that reach their query's threshold."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.search.product import GROUP


@dataclasses.dataclass(frozen=True, eq=False)
class Approximate:
    """Approximate scores of Q queries and the R rows of one partition of a block.

    Attributes:
        scores: [Q, R] float32; -inf for padding. On the host where that costs nothing, else on
            the device: few of them are ever looked at.
        maxima: [Q, R / GROUP] float32, maxima over groups of neighbouring rows.
        margin: [Q] float32, how far a score may be from the exact one.
        first_row: database index of the first row.
    """

    scores: np.ndarray | jax.Array
    maxima: np.ndarray
    margin: np.ndarray
    first_row: int

    @functools.cached_property
    def all_scores(self) -> np.ndarray:
        """The scores on the host."""
        return jax.device_get(self.scores)

    def groups(self, number: np.ndarray) -> np.ndarray:
        """The scores [n, GROUP] of groups, numbered [n] as they stand in `maxima`."""
        if isinstance(self.scores, np.ndarray):
            # Unlike an index in brackets, `take` lets other threads run.
            return self.scores.reshape(-1, GROUP).take(number, axis=0)
        # Rounded up to a power of two, so that few programs are compiled.
        padded = np.zeros(1 << max(0, len(number) - 1).bit_length(), np.int32)
        padded[: len(number)] = number
        chosen = _take_groups(self.scores, jax.device_put(padded, self.scores.sharding))
        return jax.device_get(chosen)[: len(number)]


@jax.jit
def _take_groups(scores: jax.Array, number: jax.Array) -> jax.Array:
    return jnp.take(scores.reshape(-1, GROUP), number, axis=0)


class Candidates(NamedTuple):
    """Pairs of a query and a row, in the order of queries, then rows.

    Attributes:
        query: [n] int64 in [0, Q).
        row: [n] int64 database index.
        score: [n] float32 approximate score.
    """

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray

    def where(self, kept: np.ndarray | slice) -> "Candidates":
        """Some of the pairs."""
        return Candidates(*(array[kept] for array in self))

    def only(self, queries: np.ndarray) -> "Candidates":
        """The pairs of some queries."""
        return self.where(np.isin(self.query, queries))

    def without(self, queries: np.ndarray) -> "Candidates":
        """The pairs of all other queries."""
        return self.where(np.isin(self.query, queries, invert=True)) if queries.size else self

    def of(self, queries: slice) -> "Candidates":
        """The pairs of neighbouring queries, which are counted from 0 then."""
        part = self.where(slice(*np.searchsorted(self.query, [queries.start, queries.stop])))
        return part._replace(query=part.query - queries.start)


def find_candidates(block: Approximate, threshold: np.ndarray) -> Candidates:
    """Selects the scores that are at least as high as the threshold of their query.

    Groups whose maximum is below it are passed over, so that a block in which little is found costs
    a look at one value in `GROUP`.

    Args:
        block: of Q queries.
        threshold: [Q] float32, finite or +inf.
    """
    num_groups = block.maxima.shape[1]
    group = np.flatnonzero(block.maxima >= threshold[:, None])
    query = group // num_groups
    within = block.groups(group)
    kept = np.flatnonzero(within >= threshold[query][:, None])
    which, place = kept // GROUP, kept % GROUP
    row = (group % num_groups)[which] * GROUP + place
    return Candidates(query[which], row + block.first_row, within.ravel()[kept])


def merge(parts: list[Candidates]) -> Candidates:
    """The candidates of several blocks, which stand in the order of rows."""
    together = Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return together.where(np.argsort(together.query, kind="stable"))


def check_margin(exact: np.ndarray, approximate: np.ndarray, margin: np.ndarray) -> None:
    """Compares what the bound promises with what the device computed.

    Args:
        exact: [n] float32 scores.
        approximate: [n] float32 the device's.
        margin: [n] float32 how far they may be apart.

    Raises:
        RuntimeError: they are further apart; nothing found so far can be trusted.
    """
    excess = np.abs(exact - approximate) - margin
    if excess.size and excess.max() > 0:
        worst = int(excess.argmax())
        raise RuntimeError(
            f"this device computed {approximate[worst]} for a score of {exact[worst]}, further off "
            f"than its precision allows ({margin[worst]}); set search.filter=float32 and report it"
        )
