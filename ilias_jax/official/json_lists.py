"""Similarities as JSON: `{query: {database id: score}}`.

`json.load` keeps the last of repeated keys without a word, so objects are taken as pairs here. The
scores of a list become an array as soon as it is read: a million boxed floats are never alive.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.similarity_lists import SimilarityLists, offsets_of

_WANTED = 'expected {"<query id>": {"<database id>": <score>, ...}, ...}'


def parse_json(data: bytes, place: str) -> SimilarityLists:
    """Reads the lists, sorted by query id as the official evaluator goes through them.

    Repeated keys are kept as repeated queries and repeated entries.

    Raises:
        UserError: not JSON (line and column), or another layout (the query).
    """
    lists = [(query, _entries(value, query, place)) for query, value in _load(data, place)]
    lists.sort(key=lambda pair: pair[0])
    # A name gets the next number when it is first asked for.
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    entries = [
        np.fromiter(map(numbers.__getitem__, found.names), np.int32, len(found.names))
        for _, found in lists
    ]
    return SimilarityLists(
        query_ids=tuple(query for query, _ in lists),
        database_ids=tuple(numbers),
        offsets=offsets_of([len(found.names) for _, found in lists]),
        entries=np.concatenate([np.zeros(0, np.int32), *entries]),
        scores=np.concatenate([np.zeros(0), *(found.values for _, found in lists)]),
    )


class _Object(NamedTuple):
    """A JSON object: its keys, and its values, an array if they are all numbers."""

    names: tuple[str, ...]
    values: np.ndarray | tuple[Any, ...]


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    names, values = zip(*pairs, strict=True) if pairs else ((), ())
    if set(map(type, values)) <= {float, int}:
        return _Object(names, np.array(values, np.float64))
    return _Object(names, values)


def _load(data: bytes, place: str) -> Sequence[tuple[str, Any]]:
    """The pairs of the outer object."""
    try:
        value = json.loads(data, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        whole = "; the file ends too early" if cut else ""
        raise UserError(
            f"{place}, line {error.lineno}, column {error.colno}: broken JSON "
            f"({error.msg}){whole}; {_WANTED}"
        ) from error
    except (OverflowError, RecursionError, ValueError) as error:
        raise UserError(f"{place}: broken JSON ({error}); {_WANTED}") from error
    if not isinstance(value, _Object):
        raise UserError(f"{place}: a JSON {type(value).__name__}; {_WANTED}")
    return list(zip(value.names, value.values, strict=True))


def _entries(value: Any, query: str, place: str) -> _Object:
    """One list; its values must be numbers."""
    if not isinstance(value, _Object):
        raise UserError(f"{place}: {query!r} has {_shown(value)}; {_WANTED}")
    if not isinstance(value.values, np.ndarray):
        names = zip(value.names, value.values, strict=True)
        wrong = [(name, score) for name, score in names if type(score) not in (float, int)]
        name, score = wrong[0]
        raise UserError(
            f"{place}: {query!r} has {_shown(score)} as the score of {name!r} "
            f"({len(wrong)} scores of it are no numbers); {_WANTED}"
        )
    return value


def _shown(value: Any) -> str:
    """A wrong value for a message."""
    if isinstance(value, _Object):
        return "an object"
    if isinstance(value, np.float64):
        value = float(value)
    return f"{type(value).__name__} {value!r:.40}"
