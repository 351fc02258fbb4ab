"""Similarities as JSON: `{query: {database id: score}}`.

Python's parser keeps the last of repeated keys without a word. Each key has a colon: if the file
has as many colons as keys were kept, none was repeated. Else (a repeated key, or an id with a colon
in it) the file is read once more as pairs, which is slower and loses nothing. Each list becomes
arrays as soon as it is read, so that a million boxed numbers are never alive.
"""

import json
from collections import defaultdict
from collections.abc import Collection
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
    reader = _Reader()
    value = _load(data, place, {"object_hook": reader.of_dict})
    if data.count(b":") != reader.num_keys:
        reader = _Reader()
        value = _load(data, place, {"object_pairs_hook": reader.of_pairs})
    empty = isinstance(value, _List) and not value.entries.size
    if not isinstance(value, _Object) and not empty:
        raise UserError(f"{place}: JSON of {_shown(value)}; {_WANTED}")
    pairs = [] if empty else value.pairs
    lists = [(query, _checked(found, query, place)) for query, found in pairs]
    lists.sort(key=lambda pair: pair[0])
    return SimilarityLists(
        query_ids=tuple(query for query, _ in lists),
        database_ids=tuple(reader.numbers),
        offsets=offsets_of([len(found.entries) for _, found in lists]),
        entries=np.concatenate([np.zeros(0, np.int32), *(found.entries for _, found in lists)]),
        scores=np.concatenate([np.zeros(0), *(found.scores for _, found in lists)]),
    )


class _List(NamedTuple):
    """A JSON object of numbers alone."""

    entries: np.ndarray
    scores: np.ndarray


class _Object(NamedTuple):
    """Any other JSON object."""

    pairs: list[tuple[str, Any]]


class _Reader:
    """Takes the objects of one file as the parser meets them, the inner ones first.

    Attributes:
        numbers: the ids in lists -> 0, 1, ... in the order of the file.
        num_keys: keys of all objects.
    """

    def __init__(self) -> None:
        self.numbers: defaultdict[str, int] = defaultdict()
        self.numbers.default_factory = self.numbers.__len__
        self.num_keys = 0

    def of_dict(self, found: dict[str, Any]) -> _List | _Object:
        """One object without its repeated keys."""
        return self._object(found.keys(), found.values())

    def of_pairs(self, pairs: list[tuple[str, Any]]) -> _List | _Object:
        """One object."""
        return self._object([name for name, _ in pairs], [value for _, value in pairs])

    def _object(self, names: Collection[str], values: Collection[Any]) -> _List | _Object:
        self.num_keys += len(names)
        if not set(map(type, values)) <= {float, int}:
            return _Object(list(zip(names, values, strict=True)))
        # A name gets the next number when it is first asked for.
        entries = np.fromiter(map(self.numbers.__getitem__, names), np.int32, len(names))
        return _List(entries, np.fromiter(values, np.float64, len(values)))


def _load(data: bytes, place: str, hook: dict[str, Any]) -> Any:
    """Parses JSON; the place of what is broken in it."""
    try:
        return json.loads(data, **hook)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        whole = "; the file ends too early" if cut else ""
        raise UserError(
            f"{place}, line {error.lineno}, column {error.colno}: broken JSON "
            f"({error.msg}){whole}; {_WANTED}"
        ) from error
    except (OverflowError, RecursionError, ValueError) as error:
        raise UserError(f"{place}: broken JSON ({error}); {_WANTED}") from error


def _checked(value: Any, query: str, place: str) -> _List:
    """One list; its values must be numbers."""
    if isinstance(value, _List):
        return value
    if not isinstance(value, _Object):
        raise UserError(f"{place}: {query!r} has {_shown(value)}; {_WANTED}")
    wrong = [(name, score) for name, score in value.pairs if type(score) not in (float, int)]
    name, score = wrong[0]
    raise UserError(
        f"{place}: {query!r} has {_shown(score)} as the score of {name!r} "
        f"({len(wrong)} of its scores are no numbers); {_WANTED}"
    )


def _shown(value: Any) -> str:
    """A wrong value for a message."""
    if isinstance(value, _List | _Object):
        return "an object of numbers" if isinstance(value, _List) else "an object"
    return f"{type(value).__name__} {value!r:.40}"
