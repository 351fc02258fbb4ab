"""Similarity lists from plain dicts and pairs, for tests."""

from collections.abc import Iterable

import numpy as np

from ilias_jax.metrics.lists import SimilarityLists, offsets_of

Pairs = Iterable[tuple[str, float]]


def lists_of(*queries: tuple[str, Pairs]) -> SimilarityLists:
    """Lists of (database id, score) pairs, with repeated queries and ids as given."""
    contents = [list(pairs) for _, pairs in queries]
    numbers: dict[str, int] = {}
    entries = [numbers.setdefault(name, len(numbers)) for pairs in contents for name, _ in pairs]
    return SimilarityLists(
        query_ids=tuple(query for query, _ in queries),
        database_ids=tuple(numbers),
        offsets=offsets_of([len(pairs) for pairs in contents]),
        entries=np.array(entries, np.int32),
        scores=np.array([score for pairs in contents for _, score in pairs], np.float64),
    )


def content(lists: SimilarityLists) -> list[tuple[str, list[tuple[str, float]]]]:
    """The reverse."""
    names = [lists.database_ids[entry] for entry in lists.entries]
    pairs = list(zip(names, lists.scores.tolist(), strict=True))
    ends = zip(lists.offsets[:-1], lists.offsets[1:], strict=True)
    return [(q, pairs[a:b]) for q, (a, b) in zip(lists.query_ids, ends, strict=True)]
