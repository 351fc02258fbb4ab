"""`ilias-jax rerank` on files: similarity lists of any program, descriptors, vectors and pairs."""

import json
import re

import numpy as np
import pytest
from etils import epath

from ilias_jax import cli
from ilias_jax.errors import UserError
from ilias_jax.official import rerank
from ilias_jax.official.features import write_features
from ilias_jax.official.local_features import write_local_features
from ilias_jax.official.similarities import read_similarities
from ilias_jax.rerank.descriptors import Descriptors

QUERIES, IMAGES = ["q/a.jpg", "q/b.jpg"], [f"i{n}" for n in range(9)]
DIM, MOST = 8, 6


def _descriptors(rng: np.random.Generator, count: int, dim: int = DIM) -> Descriptors:
    counts = rng.integers(1, MOST + 1, count).astype(np.int32)
    real = (np.arange(MOST) < counts[:, None])[..., None]
    values = np.where(real, rng.standard_normal((count, MOST, dim)), 0).astype(np.float32)
    places = np.zeros((count, MOST, 2), np.float32)
    return Descriptors(values, places, places[..., 0], counts)


def _run(folder, *words: str) -> dict[str, dict[str, float]]:
    similarities = ["--similarities", str(folder / "s.json")]
    output = folder / "out.json"
    cli.main(["rerank", *similarities, "--output", str(output), *words])
    return json.loads(output.read_text())


def _local(folder, *words: str) -> dict[str, dict[str, float]]:
    files = ["--queries", str(folder / "q.hdf5"), "--database", str(folder / "d?.hdf5")]
    return _run(folder, "--method", "chamfer", *files, *words)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Lists of seven of nine images, descriptors of all in two files, and vectors."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    lists = {}
    for query in QUERIES:
        chosen = rng.permutation(IMAGES)[:7].tolist()
        lists[query] = dict(zip(chosen, (-np.sort(-rng.random(7))).tolist(), strict=True))
    (tmp_path / "s.json").write_text(json.dumps(lists))
    parts = {"q": QUERIES, "d0": IMAGES[:4], "d1": IMAGES[4:]}
    for name, ids in parts.items():
        found = _descriptors(rng, len(ids))
        write_local_features(epath.Path(tmp_path / f"{name}.hdf5"), ids, found)
        np.savez(tmp_path / f"{name}.npz", values=found.values, counts=found.counts)
        vectors = rng.standard_normal((len(ids), 5)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        write_features(epath.Path(tmp_path / f"v_{name}.hdf5"), ids, vectors)
    return tmp_path


def _cosines(folder) -> dict[tuple[str, str], float]:
    """Mean over a query's descriptors of the best cosine, in float64."""
    units = {}
    for name, ids in (("q", QUERIES), ("d0", IMAGES[:4]), ("d1", IMAGES[4:])):
        with np.load(folder / f"{name}.npz") as found:
            for image, values, count in zip(ids, found["values"], found["counts"], strict=True):
                real = values[:count].astype(np.float64)
                units[image] = real / np.linalg.norm(real, axis=1, keepdims=True)
    pairs = ((query, image) for query in QUERIES for image in IMAGES)
    return {(q, i): (units[q] @ units[i].T).max(axis=1).mean() for q, i in pairs}


@pytest.mark.parametrize("length", [3, 7])
def test_lists_are_re_ranked_by_descriptors(folder, capsys, length):
    found, expected = _local(folder, "--shortlist", str(length)), _cosines(folder)
    for query, before in json.loads((folder / "s.json").read_text()).items():
        names = list(before)
        first = sorted(names[:length], key=lambda image: -expected[query, image])
        assert list(found[query]) == first + names[length:]
        scores = [found[query][image] for image in first]
        np.testing.assert_allclose(scores, [expected[query, i] for i in first], atol=1e-3)
        assert (np.diff(list(found[query].values())) < 0).all()
    assert f"method chamfer, shortlist {length}" in capsys.readouterr().out


def test_vectors_of_feature_files_do_as_well(folder):
    files = ["--queries", "v_q.hdf5", "--database", "v_d0.hdf5", "v_d1.hdf5"]
    found = _run(folder, "--method", "superglobal", "--shortlist", "7", *files)
    assert [set(found[query]) for query in QUERIES] == [
        set(before) for before in json.loads((folder / "s.json").read_text()).values()
    ]


def test_pairs_are_mixed_as_the_authors_do(folder):
    """0.5 of either; what has no pair stays behind, in its order."""
    lists = json.loads((folder / "s.json").read_text())
    names = list(lists[QUERIES[0]])
    pairs = {QUERIES[0]: {names[4]: 0.9, names[1]: 0.1, names[0]: -3.0}}
    (folder / "pairs.json").write_text(json.dumps(pairs))
    found = _run(folder, "--mix", "pairs.json")
    mixed = {n: (lists[QUERIES[0]][n] + score) / 2 for n, score in pairs[QUERIES[0]].items()}
    first = sorted(mixed, key=lambda name: -mixed[name])
    assert list(found[QUERIES[0]]) == [*first, names[2], names[3], names[5], names[6]]
    assert found[QUERIES[0]][first[0]] == pytest.approx(mixed[first[0]])
    assert list(found[QUERIES[1]]) == list(lists[QUERIES[1]])
    (folder / "pairs.json").write_text(json.dumps({QUERIES[0]: {"elsewhere": 1.0}}))
    with pytest.raises(UserError, match=r"1 of 1 re-ranked pairs of 'q/a.jpg' are not in its list"):
        rerank.mix(read_similarities(["s.json"]), read_similarities(["pairs.json"]), 0.5)


MISTAKES = {
    "M over the list": (("--shortlist", "8"), "--shortlist 8 is not allowed; lists have 7 entries"),
    "no method": (("--method", "best"), "rerank.method='best' is not allowed"),
    "both": (("--mix", "q.hdf5"), "give --method to compare images, or --mix"),
    "weights that are not there": (
        ("--shortlist", "7", "--weights", "no.pt"),
        "no.pt: no such file of weights",
    ),
    "missing images": (
        ("--shortlist", "7", "--database", "d0.hdf5"),
        r"5 of [0-9] images to compare are not in .*d0.hdf5, first 'i",
    ),
    "vectors": (("--shortlist", "7", "--queries", "v_q.hdf5"), r"float32\[2, 5\]; expected"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(folder, case, capsys):
    words, message = MISTAKES[case]
    with pytest.raises(SystemExit):
        _local(folder, *words)
    assert re.search(message, capsys.readouterr().err)


def test_descriptors_of_another_model_are_refused(folder, capsys):
    """Weights of a binarisation of 16 channels."""
    np.savez(folder / "w.npz", W=np.ones((16, 8), np.float32))
    with pytest.raises(SystemExit):
        _local(folder, "--shortlist", "7", "--weights", "w.npz")
    assert "holds descriptors of 8 channels, and the method's weights take 16" in (
        capsys.readouterr().err
    )
