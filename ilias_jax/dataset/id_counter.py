"""Counts the distractors that were found against a list of those that are expected."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ilias_jax.dataset.id_lists import IdList, hash_ids

_MOST = 255  # a count stays there


class IdCounter:
    """How often each expected image was found, in two bytes an image.

    Args:
        expected: the list; None where there is none, and every image counts as found.
        is_selection: whether images outside of the list are no part of the dataset, as with mini.
    """

    def __init__(self, expected: IdList | None, *, is_selection: bool) -> None:
        self._expected = expected
        self._is_selection = is_selection
        self._counts = np.zeros(0 if expected is None else len(expected), np.uint8)
        self._rejected = np.zeros(len(self._counts), bool)
        self._unlisted: list[np.ndarray] = []  # hashes of images that are not on the list
        self.num_found = 0
        self.num_unselected = 0

    def add(self, ids: Sequence[str]) -> None:
        """Counts images that are in the database."""
        indices = self._find(ids)
        listed, unlisted = indices[indices >= 0], np.flatnonzero(indices < 0)
        rows, counts = np.unique(listed, return_counts=True)
        self._counts[rows] = np.minimum(self._counts[rows] + counts, _MOST).astype(np.uint8)
        if self._is_selection:
            self.num_unselected += len(unlisted)
            self.num_found += len(listed)
        else:
            self._unlisted.append(hash_ids([ids[int(i)] for i in unlisted]))
            self.num_found += len(ids)

    def add_rejected(self, ids: Sequence[str]) -> np.ndarray:
        """Notes images that are known but unusable; [M] bool, whether each is expected."""
        indices = self._find(ids)
        self._rejected[indices[indices >= 0]] = True
        return (indices >= 0) | (self._expected is None)

    def _find(self, ids: Sequence[str]) -> np.ndarray:
        if self._expected is None:
            return np.full(len(ids), -1, np.int64)
        return self._expected.find(ids)

    @property
    def num_listed(self) -> int:
        """Expected images; 0 without a list."""
        return len(self._counts)

    @property
    def num_rejected(self) -> int:
        """Expected images that are unusable and were not found elsewhere."""
        return int((self._rejected & (self._counts == 0)).sum())

    @property
    def num_missing(self) -> int:
        """Expected images that were neither found nor rejected."""
        return len(self._missing())

    def _missing(self) -> np.ndarray:
        return np.flatnonzero((self._counts == 0) & ~self._rejected)

    @property
    def num_extra(self) -> int:
        """Images found that are not on the list; 0 for a selection and where there is no list."""
        return 0 if self._expected is None else sum(map(len, self._unlisted))

    @property
    def num_repeated(self) -> int:
        """Images found that had been found before."""
        repeated = int((self._counts[self._counts > 1].astype(np.int64) - 1).sum())
        _, counts = self._unlisted_counts()
        return repeated + int((counts - 1).sum())

    def _unlisted_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of the images that are not on the list, and how often each was found."""
        found = np.concatenate([np.zeros(0, np.int64), *self._unlisted])
        return np.unique(found, return_counts=True)

    def missing_names(self, limit: int) -> list[str]:
        """The first missing lines of the list."""
        missing = self._missing()
        if self._expected is None or not len(missing):
            return []
        return self._expected.names(missing, limit)

    def extra_names(self, shards: Iterable[Sequence[str]], limit: int) -> list[str]:
        """The first ids of all shards that are not on the list."""
        if not self.num_extra:
            return []
        return _first(shards, lambda ids: self._find(ids) < 0, limit)

    def repeated_names(self, shards: Iterable[Sequence[str]], limit: int) -> list[str]:
        """The first ids of all shards that were found more than once, each as often as it comes."""
        if not self.num_repeated:
            return []
        unlisted, counts = self._unlisted_counts()
        several = np.append(self._counts, np.uint8(0)) > 1  # index -1 is the last, which is 0

        def are_repeated(ids: Sequence[str]) -> np.ndarray:
            return several[self._find(ids)] | np.isin(hash_ids(ids), unlisted[counts > 1])

        return _first(shards, are_repeated, limit)


def _first(
    shards: Iterable[Sequence[str]], choose: Callable[[Sequence[str]], np.ndarray], limit: int
) -> list[str]:
    """The first chosen ids of all shards."""
    found = (ids[int(i)] for ids in shards for i in np.flatnonzero(choose(ids)))
    return list(itertools.islice(found, limit))
