"""What a ranking says of its embedding files, and how it is held against the files of today."""

import numpy as np
import pytest
from etils import epath

from ilias_jax.embeddings.file import Embeddings, write
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.errors import UserError
from ilias_jax.search.ranking import (
    FileRecord,
    Ranking,
    check_ranking,
    find_embeddings,
    read_provenance,
    trace,
)


def _write(home, name, ids, source="s"):
    path = epath.Path(home) / "embeddings" / "0123abc" / name
    rows = np.eye(4, dtype=np.float16)[np.arange(len(ids)) % 4]
    write(path, Embeddings(tuple(ids), rows, np.arange(len(ids)), {"source": source}))
    return EmbeddingFiles([path])


@pytest.fixture
def ranked(tmp_path):
    """A workdir with a ranking, its path and its provenance."""
    parts = [
        _write(tmp_path, "image_query-0.safetensors", ["a/query/Q.jpg", "b/query/Q.jpg"]),
        _write(tmp_path, "positive-0.safetensors", ["a/pos/P.jpg"]),
        _write(tmp_path, "distractor-0.safetensors", ["x.tar/0", "x.tar/1"]),
    ]
    path = epath.Path(tmp_path) / "rankings" / "image_to_image.npz"
    indices = np.array([[0, 2], [1, 0]], np.int32)
    ranking = Ranking(tuple(parts[0].ids()), indices, np.zeros((2, 2), np.float32))
    provenance = trace(*parts)
    ranking.save(path, provenance.to_text())
    return tmp_path, path, provenance


def test_the_note_reads_back(ranked):
    workdir, path, provenance = ranked
    assert read_provenance(path) == provenance
    assert provenance.distractors == (
        FileRecord("0123abc/distractor-0.safetensors", 2, provenance.queries[0].fingerprint),
    )
    files = find_embeddings(
        provenance.positives + provenance.distractors, epath.Path(workdir) / "embeddings"
    )
    assert files.ids() == ["a/pos/P.jpg", "x.tar/0", "x.tar/1"]


def test_a_ranking_without_a_note(ranked):
    _, path, _ = ranked
    Ranking.load(path).save(path)
    with pytest.raises(UserError, match=r"image_to_image\.npz does not say which embeddings"):
        read_provenance(path)


@pytest.mark.parametrize("text", ["{", '{"queries": [["a"]]}', '{"other": []}', "[]", "3"])
def test_a_note_that_cannot_be_read(ranked, text):
    _, path, _ = ranked
    Ranking.load(path).save(path, text)
    with pytest.raises(UserError, match="the note on its embeddings cannot be read"):
        read_provenance(path)


@pytest.mark.parametrize(
    ("ids", "source", "message"),
    [
        (["x.tar/0"], "s", r"distractor-0.safetensors holds 1 rows of .* made from 2 rows of "),
        (["x.tar/0", "x.tar/1"], "t", "holds 2 rows of source .* run the benchmark again"),
    ],
)
def test_files_that_have_changed(ranked, ids, source, message):
    workdir, _, provenance = ranked
    _write(workdir, "distractor-0.safetensors", ids, source)
    with pytest.raises(UserError, match=message):
        find_embeddings(provenance.distractors, epath.Path(workdir) / "embeddings")


def test_files_that_are_gone(ranked):
    workdir, _, provenance = ranked
    home = epath.Path(workdir) / "embeddings"
    (home / provenance.positives[0].name).unlink()
    with pytest.raises(UserError, match=r"1 of 2 embedding files .* gone, first .*positive-0"):
        find_embeddings(provenance.positives + provenance.distractors, home)


def test_rankings_of_other_queries_or_rows(ranked):
    workdir, path, provenance = ranked
    queries = find_embeddings(provenance.queries, epath.Path(workdir) / "embeddings")
    ranking = Ranking.load(path)
    check_ranking(ranking, provenance, queries)
    for other in (
        Ranking(ranking.query_ids[::-1], ranking.indices, ranking.scores),
        Ranking(ranking.query_ids, ranking.indices + 1, ranking.scores),
    ):
        with pytest.raises(UserError, match="not those of 1 query files and 3 database rows"):
            check_ranking(other, provenance, queries)
