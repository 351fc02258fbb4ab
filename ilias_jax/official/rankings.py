"""Rankings as the official similarity files: JSON, or a pickle of two lists and two arrays."""

import io
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from ilias_jax import atomic
from ilias_jax.errors import UserError
from ilias_jax.ranking import Ranking

IdsAt = Callable[[np.ndarray], list[str]]
SUFFIXES = {"json": ".json", "pickle": ".pkl"}


def check_output(path: epath.Path) -> None:
    """Raises UserError unless the file's name says its format and its folder can be written."""
    if path.suffix not in SUFFIXES.values():
        allowed = " or ".join(SUFFIXES.values())
        raise UserError(f"{path}: the official evaluator reads names that end in {allowed}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    check_folder(path.parent)


def check_folder(folder: epath.Path) -> None:
    """Creates a folder and a file in it; raises UserError if that cannot be done."""
    probe = folder / ".writable"
    try:
        atomic.write_bytes(probe, b"")
        probe.unlink()
    except (OSError, ImportError) as error:  # etils needs another package for buckets
        raise UserError(f"{folder} cannot be written ({error}); name another folder") from error


def write_ranking(path: epath.Path, ranking: Ranking, ids_at: IdsAt) -> None:
    """Writes a similarity file in the format that its name says.

    Args:
        path: ends in .json or .pkl; written under a temporary name and renamed.
        ranking: what was found.
        ids_at: database indices [n], rising -> their n ids.
    """
    rows, places = np.unique(ranking.indices, return_inverse=True)
    ids, places = ids_at(rows), places.reshape(ranking.indices.shape).astype(np.int64)
    if path.suffix == SUFFIXES["pickle"]:
        atomic.write_bytes(path, _pickled(ranking, ids, places))
        return
    with atomic.replacing(path) as temporary, temporary.open("w") as file:
        file.writelines(_json_parts(ranking, ids, places))


def _json_parts(ranking: Ranking, ids: list[str], places: np.ndarray) -> Iterator[str]:
    """The text of {query: {database id: score}}, a query a line, best first.

    A score is printed as the float64 that equals it, with all the digits that this takes.
    """
    separator = "{\n"
    for query, row, scores in zip(ranking.query_ids, places, ranking.scores, strict=True):
        found = dict(zip([ids[place] for place in row.tolist()], scores.tolist(), strict=True))
        if len(found) != len(row):
            raise ValueError(f"two database rows of query {query!r} have one id")
        yield f"{separator}{json.dumps(query)}: {json.dumps(found)}"
        separator = ",\n"
    yield "\n}\n" if ranking.query_ids else "{}\n"


def _pickled(ranking: Ranking, ids: list[str], places: np.ndarray) -> bytes:
    """A pickle of the four entries; `ranks` points into `db_ids`, the ids that are in use."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.dispatch_table = {np.ndarray: _reduce}
    pickler.dump(
        {
            "query_ids": list(ranking.query_ids),
            "db_ids": ids,
            "sims": np.ascontiguousarray(ranking.scores),
            "ranks": np.ascontiguousarray(places),
        }
    )
    return buffer.getvalue()


def _reduce(array: np.ndarray) -> tuple[Any, ...]:
    """How an array is pickled: by its public class alone.

    numpy 2 itself names `numpy._core`, which numpy 1.25 does not have and 1.26 has in part.
    """
    return np.ndarray, ((0,),), (1, array.shape, array.dtype, False, array.tobytes())
