"""Similarity files of the official toolkit, JSON or pickle.

JSON is `{query: {database id: score}}`. A pickle is a dict of `query_ids` [Q], `db_ids` [N], `sims`
and `ranks` [Q, K], which point into `db_ids`.
"""

import collections
import reprlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from ilias_jax import files
from ilias_jax.errors import UserError, quoted
from ilias_jax.metrics.lists import SimilarityLists, join, of_contents
from ilias_jax.models.checkpoints.unpickling import ArrayUnpickler, DamagedError, RefusedError

_JSON_STARTS = (b"{", b"[")
_PICKLE_STARTS = (b"\x80", b"(", b"}", b"]")
_JSON_LAYOUT = 'expected {"<query id>": {"<database id>": <score>, ...}, ...}'
_KEYS = ("query_ids", "db_ids", "sims", "ranks")
_PICKLE_LAYOUT = (
    "expected a dict of query_ids [Q] and db_ids [N], text, and for each query sims, real numbers, "
    "and ranks, integers in [0, N), of one length"
)


def read_similarities(paths: Sequence[epath.PathLike]) -> SimilarityLists:
    """Reads one file or the parts of one result, one after the other.

    The order of the queries is the official evaluator's: sorted by id as soon as a file is JSON,
    the order of the files if all are pickles. A query in two files comes twice.

    Raises:
        UserError: a file is missing, damaged, or neither JSON nor pickle, or has another layout.
    """
    files = [epath.Path(path) for path in paths]
    for number, path in enumerate(files):
        if path in files[:number]:
            raise UserError(f"{path}: named twice; name each part once")
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a similarity file, JSON or pickle")
    parsed = [_parse(path) for path in files]
    lists = join([part for part, _ in parsed])
    if len(files) > 1 and any(kind == "json" for _, kind in parsed):
        return lists.take(sorted(range(len(lists.query_ids)), key=lists.query_ids.__getitem__))
    return lists


def _parse(path: epath.Path) -> tuple[SimilarityLists, str]:
    """The lists of one file and its kind, told by how it begins, else by how its name ends."""
    data = files.read_bytes(path)
    if packed := files.packed_as(data):
        raise UserError(f"{path} is {packed}; unpack it")
    start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in _JSON_STARTS or (start not in _PICKLE_STARTS and path.suffix == ".json"):
        return parse_json(data, str(path)), "json"
    if start in _PICKLE_STARTS or path.suffix in (".pkl", ".pickle"):
        return parse_pickle(data, str(path)), "pickle"
    raise UserError(
        f"{path}: neither JSON nor a pickle (it begins with {quoted(data[:8])}); expected a "
        "similarity file of the official toolkit"
    )


def parse_json(data: bytes, path: str) -> SimilarityLists:
    """Reads the lists of JSON, the whole `data`, sorted by query id as the official evaluator does.

    Python's parser keeps the last of repeated keys. If the file has as many colons as keys were
    kept, none was repeated. Else (a repeated key, or an id with a colon in it) the file is read
    once more as pairs, which is slower and keeps all. Each list becomes arrays as soon as it is
    read, so that a million boxed numbers are never alive.

    Raises:
        UserError: not JSON (line and column), or another layout (the query).
    """
    reader = _JsonReader()
    value = files.parse_json(
        data, path, _JSON_LAYOUT, object_hook=lambda found: reader.read(found, found.values())
    )
    if data.count(b":") != reader.num_keys:
        reader = _JsonReader()
        value = files.parse_json(data, path, _JSON_LAYOUT, object_pairs_hook=reader.read_pairs)
    if isinstance(value, _List) and not value.entries.size:
        value = _Object([])
    if not isinstance(value, _Object):
        raise UserError(f"{path}: JSON of {_shown(value)}; {_JSON_LAYOUT}")
    lists = [(query, _json_list(found, query, path)) for query, found in value.pairs]
    lists.sort(key=lambda pair: pair[0])
    contents = [found for _, found in lists]
    return of_contents((query for query, _ in lists), reader.numbers, contents)


class _List(NamedTuple):
    """A JSON object of numbers alone, as in `SimilarityLists`."""

    entries: np.ndarray
    scores: np.ndarray


class _Object(NamedTuple):
    pairs: list[tuple[str, Any]]


class _JsonReader:
    """Takes the objects of one file as the parser meets them, the inner ones first."""

    def __init__(self) -> None:
        # The ids in lists -> 0, 1, ... in the order of the file.
        self.numbers: collections.defaultdict[str, int] = collections.defaultdict()
        self.numbers.default_factory = self.numbers.__len__
        self.num_keys = 0  # of all objects

    def read(self, names: Collection[str], values: Collection[Any]) -> _List | _Object:
        self.num_keys += len(names)
        if not set(map(type, values)) <= {float, int}:
            return _Object(list(zip(names, values, strict=True)))
        # A name gets the next number when it is first asked for.
        entries = np.fromiter(map(self.numbers.__getitem__, names), np.int32, len(names))
        return _List(entries, np.fromiter(values, np.float64, len(values)))

    def read_pairs(self, pairs: list[tuple[str, Any]]) -> _List | _Object:
        """As `read`, of an object whose keys may come again."""
        return self.read([name for name, _ in pairs], [value for _, value in pairs])


def _json_list(value: Any, query: str, path: str) -> _List:
    if isinstance(value, _List):
        return value
    if not isinstance(value, _Object):
        raise UserError(f"{path}: {quoted(query)} has {_shown(value)}; {_JSON_LAYOUT}")
    wrong = [(name, score) for name, score in value.pairs if type(score) not in (float, int)]
    name, score = wrong[0]
    raise UserError(
        f"{path}: {quoted(query)} has {_shown(score)} as the score of {quoted(name)} "
        f"({len(wrong)} of its scores are no numbers); {_JSON_LAYOUT}"
    )


def _shown(value: Any) -> str:
    """A wrong value for a message; of a deep one the outermost."""
    if isinstance(value, _List | _Object):
        return "an object of numbers" if isinstance(value, _List) else "an object"
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    try:
        return f"{type(value).__name__} {reprlib.repr(value):.40}"
    except ValueError:  # an int of more digits than Python prints
        return f"{type(value).__name__} of too many digits"


def parse_pickle(data: bytes, path: str) -> SimilarityLists:
    """Reads the lists of a pickle, the whole `data`, in the order of the file.

    Lists may differ in length (a sequence of arrays) or not (one array [Q, K]).

    Raises:
        UserError: the pickle is damaged or more than plain data, or it has another layout.
    """
    value = _load_pickle(data, path)
    if not isinstance(value, dict) or set(value) != set(_KEYS):
        found = f"the keys {sorted(value)!r:.80}" if isinstance(value, dict) else _shown(value)
        raise UserError(f"{path}: a pickle of {found}; {_PICKLE_LAYOUT}")
    query_ids = _texts(value["query_ids"], f"{path}: query_ids")
    names = _texts(value["db_ids"], f"{path}: db_ids")
    scores = _rows(value["sims"], "fiu", query_ids, len(data), f"{path}: sims")
    ranks = _rows(value["ranks"], "iu", query_ids, len(data), f"{path}: ranks")
    for query, row, rank in zip(query_ids, scores, ranks, strict=True):
        if len(row) != len(rank):
            raise UserError(
                f"{path}: {quoted(query)} has {len(row)} sims and {len(rank)} ranks; "
                f"{_PICKLE_LAYOUT}"
            )
    flat = np.concatenate([np.zeros(0, np.int64), *ranks])
    if (wrong := flat[(flat < 0) | (flat >= len(names))]).size:
        raise UserError(
            f"{path}: ranks: {wrong.size} outside [0, {len(names)}), the first is {wrong[0]}: "
            f"they point at db_ids, of which there are {len(names)}"
        )
    # The same id twice in db_ids is the same image.
    numbers: dict[str, int] = {}
    renumber = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)
    contents = [(renumber[rank], row) for rank, row in zip(ranks, scores, strict=True)]
    return of_contents(query_ids, numbers, contents)


def _load_pickle(data: bytes, path: str) -> Any:
    """The value of a pickle; nothing that it names is imported or called."""
    try:
        return ArrayUnpickler(data).load()
    except RefusedError as error:
        raise UserError(
            f"{path}: refused to read this pickle, it holds {error}; expected numpy arrays, "
            "lists, tuples, dicts, text, bytes and numbers. Nothing of it was run. If you trust "
            "its author, write the plain data again"
        ) from error
    except DamagedError as error:
        raise UserError(f"{path}: not a whole pickle ({error}); copy the file again") from error


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """A one-dimensional array or a list of text; UTF-8 bytes are text too, as h5py gives them."""
    try:
        items = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
        if not isinstance(items, list | tuple):
            raise UserError(f"{where} is {_shown(value)}; {_PICKLE_LAYOUT}")
        texts = tuple(item.decode() if isinstance(item, bytes) else item for item in items)
    except ValueError as error:
        raise UserError(f"{where} holds what is no text ({error}); {_PICKLE_LAYOUT}") from error
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{where} holds {_shown(text)}; {_PICKLE_LAYOUT}")
    return tuple(map(str, texts))  # numpy's own texts are of a class of theirs


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _rows(
    value: Any, kinds: str, query_ids: Sequence[str], size: int, where: str
) -> list[np.ndarray]:
    """One array of numbers for each query; together no longer than the file of `size` bytes."""
    if not _is_sequence(value):
        raise UserError(f"{where} is {_shown(value)}; {_PICKLE_LAYOUT}")
    if len(value) != len(query_ids):
        raise UserError(
            f"{where}: {len(value)} lists for {len(query_ids)} query_ids; {_PICKLE_LAYOUT}"
        )
    # A file may refer to one list many times: a small one would fill the memory.
    if sum(len(row) for row in value if _is_sequence(row)) > size:
        raise UserError(f"{where}: more entries than the file has bytes; {_PICKLE_LAYOUT}")
    rows = zip(value, query_ids, strict=True)
    return [_row(row, kinds, f"{where} of {quoted(query)}") for row, query in rows]


# Of a list; True and False are no numbers. numpy's scalars stay where a list was made of an array.
_NUMBERS = (float, np.floating, np.integer)


def _row(row: Any, kinds: str, where: str) -> np.ndarray:
    dtype = np.float64 if "f" in kinds else np.int64
    if isinstance(row, list | tuple):
        kinds_in_list = {type(number) for number in row}
        if not all(kind is int or issubclass(kind, _NUMBERS) for kind in kinds_in_list):
            raise UserError(f"{where} holds more than numbers; {_PICKLE_LAYOUT}")
        row = np.array(row) if row else np.zeros(0, dtype)
    if not isinstance(row, np.ndarray) or row.ndim != 1 or row.dtype.kind not in kinds:
        raise UserError(f"{where} is {_shown(row)}; {_PICKLE_LAYOUT}")
    return row.astype(dtype)
