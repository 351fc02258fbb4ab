"""Lists that name a query or a database id twice, brought into a form that can be scored."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ilias_jax.similarity_lists import SimilarityLists, offsets_of


def joined_queries(lists: SimilarityLists) -> tuple[SimilarityLists, list[str]]:
    """Gives each query one list, at the place of its first.

    Several lists of a query are taken as searches over parts of the database: their entries are
    joined, the best score first, and cut at the length of the longest. The result is the list of
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
    differing, parts = [], []
    for query, members in numbers.items():
        entries, scores = _content(lists, members)
        if len(members) > 1 and not _all_same(lists, members):
            differing.append(query)
            entries, scores = _joined(entries, scores, int(lists.lengths[members].max()))
        else:
            size = lists.lengths[members[0]]
            entries, scores = entries[:size], scores[:size]
        parts.append((entries, scores))
    joined = SimilarityLists(
        query_ids=tuple(numbers),
        database_ids=lists.database_ids,
        offsets=offsets_of([len(entries) for entries, _ in parts]),
        entries=np.concatenate([entries for entries, _ in parts]),
        scores=np.concatenate([scores for _, scores in parts]),
    )
    return joined, differing


def best_of_repeated(lists: SimilarityLists) -> np.ndarray:
    """[E] bool, false for an entry whose id has a better one in the same list, or an earlier one.

    Scores must be finite.
    """
    keys = lists.rows * max(len(lists.database_ids), 1) + lists.entries
    ordered = np.sort(keys)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.ones(len(keys), bool)
    order = np.lexsort((-lists.scores, keys))
    best = np.zeros(len(keys), bool)
    best[order] = np.append(True, keys[order][1:] != keys[order][:-1])
    return best


def _content(lists: SimilarityLists, members: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Entries and scores of several lists, one after the other."""
    places = np.concatenate(
        [np.arange(lists.offsets[number], lists.offsets[number + 1]) for number in members]
    )
    return lists.entries[places], lists.scores[places]


def _all_same(lists: SimilarityLists, members: Sequence[int]) -> bool:
    first = _content(lists, members[:1])
    return all(
        np.array_equal(first[0], entries) and np.array_equal(first[1], scores, equal_nan=True)
        for entries, scores in (_content(lists, [number]) for number in members[1:])
    )


def _joined(entries: np.ndarray, scores: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Best first, equal pairs once, not longer than `length`; NaN last."""
    order = np.argsort(-scores, kind="stable")
    pairs = dict.fromkeys(zip(entries[order].tolist(), scores[order].tolist(), strict=True))
    kept = list(pairs)[:length]
    return (
        np.array([entry for entry, _ in kept], np.int32),
        np.array([score for _, score in kept], np.float64),
    )
