"""Reads the similarity files of the official toolkit: JSON, pickle, whole or in parts."""

from collections.abc import Sequence

from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.official.json_lists import parse_json
from ilias_jax.official.pickle_lists import parse_pickle
from ilias_jax.similarity_lists import SimilarityLists, join

_JSON = (b"{", b"[")
_PICKLE = (b"\x80", b"(", b"}", b"]")


def read_similarities(paths: Sequence[epath.PathLike]) -> SimilarityLists:
    """Reads one file or the parts of one result, one after the other.

    The order of the queries is the official evaluator's: sorted by id as soon as a file is JSON,
    the order of the files if all are pickles. A query in two files comes twice.

    Raises:
        UserError: a file is missing, damaged, or neither JSON nor pickle, or has another layout.
    """
    files = [epath.Path(path) for path in paths]
    if repeated := [str(path) for number, path in enumerate(files) if path in files[:number]]:
        raise UserError(f"{repeated[0]}: named twice; name each part once")
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a similarity file, JSON or pickle")
    parsed = [_parse(path) for path in files]
    lists = join([part for part, _ in parsed])
    if len(files) > 1 and any(kind == "json" for _, kind in parsed):
        return lists.take(sorted(range(len(lists.query_ids)), key=lists.query_ids.__getitem__))
    return lists


def _parse(path: epath.Path) -> tuple[SimilarityLists, str]:
    """The lists of one file and its kind, told by how it begins, else by how its name ends."""
    data = path.read_bytes()
    start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in _JSON or (start not in _PICKLE and path.suffix == ".json"):
        return parse_json(data, str(path)), "json"
    if start in _PICKLE or path.suffix in (".pkl", ".pickle"):
        return parse_pickle(data, str(path)), "pickle"
    raise UserError(
        f"{path}: neither JSON nor a pickle (it begins with {data[:8]!r}); expected a similarity "
        "file of the official toolkit"
    )
