"""Rankings as similarity files, and a finished run's embeddings and rankings as official files.

A similarity file is JSON, or a pickle of two lists and two arrays.
"""

import io
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.embeddings.sources import Concatenated
from ilias_jax.errors import UserError
from ilias_jax.files import check_output, replacing, write_bytes
from ilias_jax.official.features import write_features
from ilias_jax.progress import track
from ilias_jax.search.ranking import (
    Provenance,
    Ranking,
    check_ranking,
    find_embeddings,
    read_provenance,
)

_SUFFIXES = {"json": ".json", "pickle": ".pkl"}
_QUERIES = {
    "image_to_image": "image_queries",
    "image_to_image_reranked": "image_queries",
    "text_to_image": "text_queries",
}


def check_ranking_output(path: epath.Path, inputs: Iterable[epath.PathLike] = ()) -> None:
    """As `files.check_output`, and the file's name must say its format."""
    if path.suffix not in _SUFFIXES.values():
        allowed = " or ".join(_SUFFIXES.values())
        raise UserError(f"{path}: the official evaluator reads names that end in {allowed}")
    check_output(path, inputs)


def write_ranking(
    path: epath.Path, ranking: Ranking, ids_at: Callable[[np.ndarray], list[str]]
) -> None:
    """Writes a similarity file, whole or not at all, in the format that its name says.

    `ids_at` gives the ids of rising database indices [n].
    """
    rows, ranks = np.unique(ranking.indices, return_inverse=True)
    ids, ranks = ids_at(rows), ranks.reshape(ranking.indices.shape).astype(np.int64)
    if path.suffix == _SUFFIXES["pickle"]:
        write_bytes(path, _pickled(ranking, ids, ranks))
        return
    with replacing(path) as temporary, temporary.open("w") as file:
        file.writelines(_json_parts(ranking, ids, ranks))


def _json_parts(ranking: Ranking, ids: list[str], ranks: np.ndarray) -> Iterator[str]:
    """The text of {query: {database id: score}}, a query a line, best first.

    A score is printed as the float64 that equals it, with all the digits that this takes.
    """
    separator = "{\n"
    for query, row, scores in zip(ranking.query_ids, ranks, ranking.scores, strict=True):
        found = dict(zip([ids[rank] for rank in row.tolist()], scores.tolist(), strict=True))
        if len(found) != len(row):
            raise ValueError(f"two database rows of query {query!r} have one id")
        yield f"{separator}{json.dumps(query)}: {json.dumps(found)}"
        separator = ",\n"
    yield "\n}\n" if ranking.query_ids else "{}\n"


def _pickled(ranking: Ranking, ids: list[str], ranks: np.ndarray) -> bytes:
    """A pickle of the four entries; `ranks` points into `db_ids`, the ids that are in use."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.dispatch_table = {np.ndarray: _reduce}
    sims, ranks = np.ascontiguousarray(ranking.scores), np.ascontiguousarray(ranks)
    values = (list(ranking.query_ids), ids, sims, ranks)
    pickler.dump(dict(zip(("query_ids", "db_ids", "sims", "ranks"), values, strict=True)))
    return buffer.getvalue()


def _reduce(array: np.ndarray) -> tuple[Any, ...]:
    """How an array is pickled: by its public class, which all versions of numpy have."""
    return np.ndarray, ((0,),), (1, array.shape, array.dtype, False, array.tobytes())


def export_rankings(workdir: epath.Path, output: epath.Path, form: str) -> list[epath.Path]:
    """Writes a similarity file for every ranking of a run into a folder, and returns the files.

    They are `similarities_<section>.json`, or `.pkl` if the form is not "json" but "pickle".

    Raises:
        UserError: the run has no ranking, or its embeddings are no longer those of the ranking.
    """
    written = []
    for section, provenance in _provenances(workdir).items():
        ranking = Ranking.load(_ranking_path(workdir, section))
        embedded = workdir / "embeddings"
        check_ranking(ranking, provenance, find_embeddings(provenance.queries, embedded))
        database = find_embeddings(provenance.positives + provenance.distractors, embedded)
        parts = Concatenated([EmbeddingFiles([path]) for path in database.paths])
        path = output / f"similarities_{section}{_SUFFIXES[form]}"
        write_ranking(path, ranking, parts.ids_at)
        written.append(path)
    return written


def export_features(workdir: epath.Path, output: epath.Path) -> list[epath.Path]:
    """Writes the embeddings that a run's rankings were made from as official feature files.

    Rows keep the order of the run's database, whatever order the toolkit would give them; `index`
    says it. Every shard of distractors becomes one file. Returns the files written.

    Raises:
        UserError: as `export_rankings`, or the folder holds feature files that this export would
            not write.
    """
    provenances = _provenances(workdir)
    database = next(iter(provenances.values()))
    records = {_QUERIES[section]: each.queries for section, each in provenances.items()}
    records["positives"] = database.positives
    for number, record in enumerate(database.distractors):
        records[f"distractors_{number:05d}"] = (record,)
    contents = {
        output / f"features_{name}.hdf5": find_embeddings(part, workdir / "embeddings")
        for name, part in records.items()
    }
    others = sorted(set(output.glob("features_*.hdf5")) - set(contents)) if output.exists() else []
    if others:
        raise UserError(
            f"{output} holds {others[0].name}, which this export would not write; name a new folder"
        )
    dim = contents[output / "features_positives.hdf5"].dim
    with track("export features", len(contents)) as advance:
        for path, files in contents.items():
            vectors = files.vectors()
            # A shard without one readable image has vectors [0, 0]; the official layout has not.
            vectors = vectors if len(vectors) else vectors.reshape(0, dim)
            write_features(path, files.ids(), vectors)
            advance(1)
    return list(contents)


def _ranking_path(workdir: epath.Path, section: str) -> epath.Path:
    return workdir / "rankings" / f"{section}.npz"


def _provenances(workdir: epath.Path) -> dict[str, Provenance]:
    """The provenance of every ranking of a run; all are of one database."""
    paths = {section: _ranking_path(workdir, section) for section in _QUERIES}
    found = {name: read_provenance(path) for name, path in paths.items() if path.exists()}
    if not found:
        raise UserError(f"{workdir} holds no rankings/*.npz; run the benchmark there first")
    if len({each.positives + each.distractors for each in found.values()}) > 1:
        raise UserError(
            f"the rankings of {workdir} are of different databases; remove the older one, "
            "or run the benchmark again"
        )
    return found
