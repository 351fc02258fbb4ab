"""Scored lists of database ids, one a query, as a similarity file holds them."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

Content = tuple[np.ndarray, np.ndarray]  # entries and scores of one list


@dataclasses.dataclass(frozen=True, eq=False)
class SimilarityLists:
    """Q lists of together E entries, in the order of the file.

    Nothing is checked: query ids may be repeated, as may database ids within a list, lists need not
    be sorted, and a score may be NaN or infinite.
    """

    query_ids: tuple[str, ...]  # one a list
    database_ids: tuple[str, ...]  # all different
    offsets: np.ndarray  # [Q + 1] int64; list q is entries[offsets[q] : offsets[q + 1]]
    entries: np.ndarray  # [E] int32 numbers into `database_ids`
    scores: np.ndarray  # [E] float64, higher is better

    @property
    def lengths(self) -> np.ndarray:
        """[Q] int64 numbers of entries."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """[E] int64, the list that each entry is in."""
        return np.repeat(np.arange(len(self.query_ids)), self.lengths)

    def content(self, query: int) -> Content:
        """Entries and scores of the list with this number."""
        part = slice(self.offsets[query], self.offsets[query + 1])
        return self.entries[part], self.scores[part]

    def keep(self, wanted: np.ndarray) -> "SimilarityLists":
        """The same lists with only the entries where `wanted` [E] bool is true."""
        lengths = np.bincount(self.rows[wanted], minlength=len(self.query_ids))
        contents = self.entries[wanted], self.scores[wanted]
        return SimilarityLists(self.query_ids, self.database_ids, offsets_of(lengths), *contents)

    def take(self, queries: Sequence[int]) -> "SimilarityLists":
        """The lists with these numbers, in this order."""
        contents = [self.content(query) for query in queries]
        names = [self.query_ids[query] for query in queries]
        return of_contents(names, self.database_ids, contents)

    def descending(self) -> "SimilarityLists":
        """Each list by falling score; equal scores keep their order."""
        order = np.lexsort((-self.scores, self.rows))
        return dataclasses.replace(self, entries=self.entries[order], scores=self.scores[order])

    def first_of_ids(self) -> np.ndarray:
        """[E] bool, the entry has the best score of its id in its list, or is the first of those.

        Scores must be finite.
        """
        keys = self.rows * len(self.database_ids) + self.entries
        order = np.lexsort((-self.scores, keys))
        first = np.ones(len(keys), bool)
        first[order[1:]] = keys[order[1:]] != keys[order[:-1]]
        return first


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """[Q + 1] int64 starts of lists of these lengths, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def of_contents(
    query_ids: Iterable[str], database_ids: Iterable[str], contents: Sequence[Content]
) -> SimilarityLists:
    """Lists of these queries, of numbers into `database_ids` and of scores."""
    return SimilarityLists(
        query_ids=tuple(query_ids),
        database_ids=tuple(database_ids),
        offsets=offsets_of([len(entries) for entries, _ in contents]),
        entries=np.concatenate([np.zeros(0, np.int32), *(entries for entries, _ in contents)]),
        scores=np.concatenate([np.zeros(0), *(scores for _, scores in contents)]),
    )


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


def merge_repeated_queries(lists: SimilarityLists) -> tuple[SimilarityLists, list[str]]:
    """Gives each query one list, in the order of their first lists.

    Several lists of a query are taken as searches over parts of the database: their entries are
    merged, the best score first, and cut at the length of the longest. The result is the list of
    one search over the whole database: behind that length, entries of some part are unknown. An id
    with the same score in two lists (the positives are often in every part) is one entry; with
    two scores it stays twice.

    Returns:
        The lists, and the queries whose lists are not all the same.
    """
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for number, query in enumerate(lists.query_ids):
        numbers[query].append(number)
    if len(numbers) == len(lists.query_ids):
        return lists, []
    differing, merged = [], []
    for query, members in numbers.items():
        first, *others = (lists.content(number) for number in members)
        if not all(_equal(first, other) for other in others):
            differing.append(query)
            first = _merge([first, *others])
        merged.append(first)
    return of_contents(numbers, lists.database_ids, merged), differing


def _equal(a: Content, b: Content) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1], equal_nan=True)


def _merge(contents: Sequence[Content]) -> Content:
    """Best first, equal pairs once, as many as the longest list has; NaN last."""
    entries, scores = (np.concatenate(arrays) for arrays in zip(*contents, strict=True))
    order = np.argsort(-scores, kind="stable")
    pairs = dict.fromkeys(zip(entries[order].tolist(), scores[order].tolist(), strict=True))
    kept = list(pairs)[: max(len(entries) for entries, _ in contents)]
    found = zip(*kept, strict=True)
    return np.array(next(found), np.int32), np.array(next(found), np.float64)
