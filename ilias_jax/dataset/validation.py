"""What can be wrong with a data folder, and how often each expected distractor was found."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ilias_jax.dataset.id_lists import IdList, hash_ids
from ilias_jax.errors import printable

NUM_EXAMPLES = 5
_MOST = 255  # a count of `IdCounter` stays there
_CORE = "convert the core images again"
_TARS = "convert their tars again"
# name -> what is said around the examples, which take the place of {}, and what to do
_PROBLEMS = {
    **{
        f"{kind}_{what}": f"{text}{{}}; {_CORE}"
        for what in ("image_queries", "positives", "text_queries")
        for kind, text in (
            ("missing", "in image_ids/ but in no shard"),
            ("extra", "in a shard but not in image_ids/"),
            ("repeated", "in the shards more than once"),
            ("misordered", "in another order than in image_ids/"),
        )
    },
    "missing_distractors": "on the list but in no shard{}; convert the missing tars, or allow "
    "missing_distractors",
    "extra_distractors": "in a shard but not on the list{}; remove their tars and convert again, "
    "or allow extra_distractors",
    "repeated_distractors": "in the shards more than once{}; a database row must be there once: "
    "convert each tar once",
    "unchecked_distractors": "no list of distractors{}; download it, or allow "
    "unchecked_distractors",
    "no_text_queries": "not there{}; convert ilias_core.tar, which has the texts, or allow "
    "no_text_queries",
    "missing_shards": "in dataset_info.json but not there{}; convert or copy them again",
    "missing_inventories": "shards without inventory{}; convert again, or allow "
    "missing_inventories; `ilias-jax check --deep` reads the records",
    "damaged_inventories": f"inventories that cannot be read{{}}; {_TARS}",
    "stale_inventories": f"inventories of other shard files{{}}; {_TARS}",
    "wrong_dataset_info": "numbers in dataset_info.json that are not the inventories'{}; convert "
    "again; finished shards are kept",
    "unlisted_files": "files that belong to no shard of dataset_info.json{}; remove them if they "
    "are left over, or allow unlisted_files",
    "damaged_shards": f"shards that cannot be read{{}}; {_TARS}",
    "other_records": f"records that are not what the inventory says{{}}; {_TARS}",
    "no_jpeg": f"records without a JPEG{{}}; {_TARS}",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One kind of problem."""

    name: str  # by which it can be ignored, if it can
    count: int  # how often it is there
    examples: tuple[str, ...]  # the first few

    def __str__(self) -> str:
        """One line: name, count, examples, and what to do."""
        more = ", ..." if self.count > len(self.examples) else ""
        shown = f": {printable(', '.join(self.examples))}{more}" if self.examples else ""
        return f"{self.name} ({self.count:,}): " + _PROBLEMS[self.name].format(shown)


class ValidationReport:
    """Collects problems while a dataset is looked through."""

    def __init__(self) -> None:
        self._problems: dict[str, Problem] = {}

    def add(self, name: str, examples: Sequence[str], count: int | None = None) -> None:
        """Notes `count` problems of a kind, by default one for every example; 0 is none."""
        assert name in _PROBLEMS, name
        number = len(examples) if count is None else count
        if number:
            known = self._problems.get(name, Problem(name, 0, ()))
            shown = (*known.examples, *examples)[:NUM_EXAMPLES]
            self._problems[name] = Problem(name, known.count + number, shown)

    def problems(self) -> tuple[Problem, ...]:
        """All problems in the order in which they were found."""
        return tuple(self._problems.values())


class IdCounter:
    """Counts found distractors against a list of the expected ones, in two bytes an image.

    Without a list every image counts as found. With a selection, as mini is one, images outside of
    the list are no part of the dataset.
    """

    def __init__(self, expected: IdList | None, *, is_selection: bool) -> None:
        self._expected, self._is_selection = expected, is_selection
        self.num_listed = 0 if expected is None else len(expected)
        self._counts = np.zeros(self.num_listed, np.uint8)
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
        return np.full(len(ids), -1) if self._expected is None else self._expected.find(ids)

    @property
    def num_rejected(self) -> int:
        """Expected images that are unusable and were not found elsewhere."""
        return int((self._rejected & (self._counts == 0)).sum())

    def _missing(self) -> np.ndarray:
        return np.flatnonzero((self._counts == 0) & ~self._rejected)

    @property
    def num_missing(self) -> int:
        """Expected images that were neither found nor rejected."""
        return len(self._missing())

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
        return self._expected.names(missing, limit) if self._expected and len(missing) else []

    def extra_names(self, shards: Iterable[Sequence[str]], limit: int) -> list[str]:
        """The first ids of all shards that are not on the list."""
        return _first(shards, lambda ids: self._find(ids) < 0, limit) if self.num_extra else []

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
    found = (ids[int(i)] for ids in shards for i in np.flatnonzero(choose(ids)))
    return list(itertools.islice(found, limit))
