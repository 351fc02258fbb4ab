"""Similarities as pickle: `{query_ids, db_ids, sims, ranks}`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.official.restricted_pickle import read_pickle
from ilias_jax.similarity_lists import SimilarityLists, offsets_of

_KEYS = ("query_ids", "db_ids", "sims", "ranks")
_WANTED = (
    "expected a dict of query_ids [Q] and db_ids [N], text, and for each query sims, real numbers, "
    "and ranks, integers in [0, N), of one length"
)


def parse_pickle(data: bytes, place: str) -> SimilarityLists:
    """Reads the lists in the order of the file.

    Lists may differ in length (a sequence of arrays) or not (one array [Q, K]).

    Raises:
        UserError: the pickle is damaged or more than plain data, or it has another layout.
    """
    value = read_pickle(data, place)
    if not isinstance(value, dict) or set(value) != set(_KEYS):
        found = (
            f"the keys {sorted(value)!r:.80}" if isinstance(value, dict) else type(value).__name__
        )
        raise UserError(f"{place}: a pickle of {found}; {_WANTED}")
    query_ids = _texts(value["query_ids"], f"{place}: query_ids")
    names = _texts(value["db_ids"], f"{place}: db_ids")
    scores = _rows(value["sims"], "fiu", query_ids, len(data), f"{place}: sims")
    ranks = _rows(value["ranks"], "iu", query_ids, len(data), f"{place}: ranks")
    _check_lengths(query_ids, scores, ranks, place)
    flat = np.concatenate([np.zeros(0, np.int64), *ranks])
    if flat.size and not 0 <= flat.min() <= flat.max() < len(names):
        wrong = flat[(flat < 0) | (flat >= len(names))]
        raise UserError(
            f"{place}: ranks: {wrong.size} outside [0, {len(names)}), the first is {wrong[0]}: "
            f"they point at db_ids, of which there are {len(names)}"
        )
    # The same id twice in db_ids is the same image.
    numbers: dict[str, int] = {}
    renumber = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)
    return SimilarityLists(
        query_ids=query_ids,
        database_ids=tuple(numbers),
        offsets=offsets_of([len(row) for row in ranks]),
        entries=renumber[flat] if flat.size else np.zeros(0, np.int32),
        scores=np.concatenate([np.zeros(0), *scores]).astype(np.float64),
    )


def _texts(value: Any, place: str) -> tuple[str, ...]:
    """A one-dimensional array or a list of text; UTF-8 bytes are text too, as h5py gives them."""
    items = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    if not isinstance(items, list | tuple):
        raise UserError(f"{place} is {_shown(value)}; {_WANTED}")
    texts = []
    for item in items:
        try:
            texts.append(item.decode() if isinstance(item, bytes) else item)
        except UnicodeDecodeError as error:
            raise UserError(f"{place}: {item!r:.60} is not UTF-8 text; {_WANTED}") from error
        if type(texts[-1]) is not str:
            raise UserError(f"{place} holds {_shown(item)}; {_WANTED}")
    return tuple(texts)


def _rows(
    value: Any, kinds: str, query_ids: Sequence[str], size: int, place: str
) -> list[np.ndarray]:
    """One array of numbers for each query; together no longer than the file of `size` bytes."""
    if not _is_sequence(value):
        raise UserError(f"{place} is {_shown(value)}; {_WANTED}")
    if len(value) != len(query_ids):
        raise UserError(f"{place}: {len(value)} lists for {len(query_ids)} query_ids; {_WANTED}")
    # A file may refer to one list many times: a small one would fill the memory.
    if sum(len(row) for row in value if _is_sequence(row)) > size:
        raise UserError(f"{place}: more entries than the file has bytes; {_WANTED}")
    return [
        _row(row, kinds, f"{place} of {query!r}")
        for row, query in zip(value, query_ids, strict=True)
    ]


def _is_sequence(value: Any) -> bool:
    """A list, a tuple or an array of at least one axis."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _row(row: Any, kinds: str, place: str) -> np.ndarray:
    dtype = np.float64 if "f" in kinds else np.int64
    if isinstance(row, list | tuple):
        if not {type(number) for number in row} <= {int, float}:
            raise UserError(f"{place} holds more than numbers; {_WANTED}")
        row = np.array(row) if row else np.zeros(0, dtype)
    if not isinstance(row, np.ndarray) or row.ndim != 1 or row.dtype.kind not in kinds:
        raise UserError(f"{place} is {_shown(row)}; {_WANTED}")
    return row.astype(dtype)


def _check_lengths(
    query_ids: Sequence[str], scores: Sequence[np.ndarray], ranks: Sequence[np.ndarray], place: str
) -> None:
    """Raises UserError where a query has more sims than ranks, or fewer."""
    for query, row, rank in zip(query_ids, scores, ranks, strict=True):
        if len(row) != len(rank):
            raise UserError(
                f"{place}: {query!r} has {len(row)} sims and {len(rank)} ranks; {_WANTED}"
            )


def _shown(value: Any) -> str:
    """What a wrong value is, for a message."""
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    return f"{type(value).__name__} {value!r:.40}"
