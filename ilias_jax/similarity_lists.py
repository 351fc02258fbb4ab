"""Scored lists of database ids, one a query: what a similarity file holds, in arrays."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class SimilarityLists:
    """Q lists of together E entries, in the order of the file, not sorted and not yet checked.

    Query ids may be repeated, as may database ids within a list, and a score may be any number: the
    checks of `metrics` say what is wrong with them.

    Attributes:
        query_ids: Q ids, one a list.
        database_ids: the D different ids in the lists.
        offsets: [Q + 1] int64; list q is entries[offsets[q] : offsets[q + 1]].
        entries: [E] int32 numbers into `database_ids`.
        scores: [E] float64, higher is better.

    Raises:
        ValueError: a shape, dtype or number breaks one of these rules.
    """

    query_ids: tuple[str, ...]
    database_ids: tuple[str, ...]
    offsets: np.ndarray
    entries: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        """Checks the rules of the class docstring."""
        num_entries = len(self.entries)
        rules = (
            ("offsets", self.offsets, np.int64, len(self.query_ids) + 1),
            ("entries", self.entries, np.int32, num_entries),
            ("scores", self.scores, np.float64, num_entries),
        )
        for name, array, dtype, length in rules:
            if array.dtype != dtype or array.shape != (length,):
                raise ValueError(
                    f"{name} is {array.dtype}{list(array.shape)}; expected "
                    f"{np.dtype(dtype)}[{length}]"
                )
        steps = np.diff(self.offsets)
        if self.offsets[0] != 0 or self.offsets[-1] != num_entries or (steps < 0).any():
            raise ValueError(f"offsets do not rise from 0 to {num_entries}")
        if num_entries and not 0 <= self.entries.min() <= self.entries.max() < len(
            self.database_ids
        ):
            raise ValueError(f"an entry is not in [0, {len(self.database_ids)})")

    @property
    def lengths(self) -> np.ndarray:
        """[Q] int64 numbers of entries."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """[E] int64, the list that each entry is in."""
        return np.repeat(np.arange(len(self.query_ids)), self.lengths)

    def keep(self, wanted: np.ndarray) -> "SimilarityLists":
        """The same lists with only the entries where `wanted` [E] bool is true."""
        lengths = np.bincount(self.rows[wanted], minlength=len(self.query_ids))
        return dataclasses.replace(
            self,
            offsets=offsets_of(lengths),
            entries=self.entries[wanted],
            scores=self.scores[wanted],
        )

    def take(self, queries: Sequence[int] | np.ndarray) -> "SimilarityLists":
        """The lists with these numbers, in this order."""
        queries = np.asarray(queries, np.int64)
        lengths = self.lengths[queries]
        offsets = offsets_of(lengths)
        # Entry e of the result is as far behind the start of its list as it was before.
        moved = np.repeat(self.offsets[:-1][queries] - offsets[:-1], lengths)
        source = np.arange(offsets[-1]) + moved
        return dataclasses.replace(
            self,
            query_ids=tuple(self.query_ids[query] for query in queries),
            offsets=offsets,
            entries=self.entries[source],
            scores=self.scores[source],
        )


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """[Q + 1] int64 starts of lists of these lengths, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def join(parts: Sequence[SimilarityLists]) -> SimilarityLists:
    """All lists of all parts, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    numbers: dict[str, int] = {}
    entries = []
    for part in parts:
        renumber = [numbers.setdefault(name, len(numbers)) for name in part.database_ids]
        entries.append(np.array(renumber, np.int32)[part.entries])
    return SimilarityLists(
        query_ids=tuple(query for part in parts for query in part.query_ids),
        database_ids=tuple(numbers),
        offsets=offsets_of(np.concatenate([part.lengths for part in parts])),
        entries=np.concatenate(entries),
        scores=np.concatenate([part.scores for part in parts]),
    )
