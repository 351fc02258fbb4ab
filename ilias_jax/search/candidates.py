"""Finds the few scores of a block that reach their query's threshold."""

import dataclasses
from typing import NamedTuple

import numpy as np

from ilias_jax.search.product import GROUP


@dataclasses.dataclass(frozen=True, eq=False)
class Approximate:
    """Approximate scores of Q queries and the R rows of one partition of a block.

    Attributes:
        scores: [Q, R] float32; -inf for padding.
        maxima: [Q, R / GROUP] float32, maxima over groups of neighbouring rows.
        margin: [Q] float32, how far a score may be from the exact one.
        first_row: database index of the first row.
    """

    scores: np.ndarray
    maxima: np.ndarray
    margin: np.ndarray
    first_row: int

    def of(self, queries: slice) -> "Approximate":
        """The same for some of the queries."""
        return Approximate(
            self.scores[queries], self.maxima[queries], self.margin[queries], self.first_row
        )


class Candidates(NamedTuple):
    """Pairs of a query and a row, in the order of queries, then rows.

    Attributes:
        query: [n] int64 in [0, Q).
        row: [n] int64 row of the block.
        score: [n] float32 approximate score.
    """

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray

    def where(self, kept: np.ndarray | slice) -> "Candidates":
        """Some of the pairs."""
        return Candidates(*(array[kept] for array in self))

    def only(self, query: int) -> "Candidates":
        """The pairs of one query."""
        return self.where(self.query == query)

    def without(self, queries: np.ndarray) -> "Candidates":
        """The pairs of all other queries."""
        return self.where(np.isin(self.query, queries, invert=True)) if queries.size else self


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
    # Unlike an index in brackets, `take` lets other threads run.
    within = block.scores.reshape(-1, GROUP).take(group, axis=0)
    kept = np.flatnonzero(within >= threshold[query][:, None])
    which, place = kept // GROUP, kept % GROUP
    row = (group % num_groups)[which] * GROUP + place
    return Candidates(query[which], row, within.ravel()[kept])


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
