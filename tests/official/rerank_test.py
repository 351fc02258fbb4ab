"""`ilias-jax rerank` on files: similarity lists of any program, descriptors, vectors and pairs."""

import dataclasses
import json
import re

import h5py
import local_world
import numpy as np
import pytest
from etils import epath
from local_oracle import ORACLES
from local_pairs import NETWORKS, SMALL, padded

from ilias_jax import cli
from ilias_jax.official import rerank
from ilias_jax.official.features import write_features
from ilias_jax.official.local_features import open_local_features
from ilias_jax.official.local_features_writer import write_local_features
from ilias_jax.official.mixture import to_ranking
from ilias_jax.official.neighbours import write_neighbours
from ilias_jax.official.rerank import open_sources
from ilias_jax.official.similarities import read_similarities
from ilias_jax.rerank.descriptors import Descriptors

QUERIES, IMAGES = ["q/a.jpg", "q/b.jpg"], [f"i{n}" for n in range(9)]
DIM, MOST = 8, 6
FILES = {"q": QUERIES[::-1], "d0": IMAGES[:4], "d1": IMAGES[4:]}  # in the order of their rows


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
    for name, ids in FILES.items():
        found = _descriptors(rng, len(ids))
        write_local_features(epath.Path(tmp_path / f"{name}.hdf5"), ids, found)
        np.savez(tmp_path / f"{name}.npz", values=found.values, counts=found.counts)
        vectors = rng.standard_normal((len(ids), 5)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        write_features(epath.Path(tmp_path / f"v_{name}.hdf5"), ids, vectors)
    return tmp_path


def _cosines(folder, num_query: int = MOST, num_image: int = MOST) -> dict[tuple[str, str], float]:
    """Mean over a query's descriptors of the best cosine, in float64."""
    units = {}
    for name, ids in FILES.items():
        with np.load(folder / f"{name}.npz") as found:
            for image, values, count in zip(ids, found["values"], found["counts"], strict=True):
                most = num_query if name == "q" else num_image
                real = values[: min(count, most)].astype(np.float64)
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


@pytest.mark.parametrize("size", [1, 2**28])
def test_any_block_of_queries_gives_the_same(folder, size, monkeypatch):
    monkeypatch.setattr(rerank, "_BLOCK_BYTES", size)
    monkeypatch.setattr(rerank, "_IMAGES_AT_ONCE", 3)
    found, expected = _local(folder, "--shortlist", "7"), _cosines(folder)
    for query, row in found.items():
        np.testing.assert_allclose([*row.values()], [expected[query, i] for i in row], atol=1e-3)


def test_fewer_descriptors_are_the_strongest(folder):
    words = ["--shortlist", "7", "--query_descriptors", "2", "--database_descriptors", "3"]
    found, expected = _local(folder, *words), _cosines(folder, 2, 3)
    for query, row in found.items():
        np.testing.assert_allclose([*row.values()], [expected[query, i] for i in row], atol=1e-3)


def test_scores_of_the_method_alone_can_be_mixed_later(folder):
    """Re-ranked here and mixed by their rule, or in one step."""
    words = ["--shortlist", "4", "--similarity_weight", "0.5"]
    whole = _local(folder, *words, "--scores", "own.json")
    own, expected = json.loads((folder / "own.json").read_text()), _cosines(folder)
    before = json.loads((folder / "s.json").read_text())
    for query, row in own.items():
        assert set(row) == {*[*before[query]][:4]}
        assert [*row.values()] == sorted(row.values(), reverse=True)
        np.testing.assert_allclose([*row.values()], [expected[query, i] for i in row], atol=1e-3)
    mixed = _run(folder, "--mix", "own.json")
    for query, row in whole.items():
        assert [*mixed[query]] == [*row]
        np.testing.assert_allclose([*mixed[query].values()], [*row.values()], atol=1e-6)


SOME = ("ames_binary", "elvis_full")  # of the others other tests have the scores, from arrays


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(each, id=each.name, marks=[] if each.name in SOME else pytest.mark.slow)
        for each in NETWORKS
    ],
)
def test_descriptors_of_the_authors_files_give_the_authors_scores(network, tmp_path, monkeypatch):
    """What their own code said of the same pairs; columns as their extraction writes them."""
    monkeypatch.chdir(tmp_path)
    queries, images = SMALL.draw()
    for side, values, count in (("q", queries, 24), ("d", images, 18)):
        columns = np.zeros((len(values), count, 5 + 768), np.float32)
        columns[..., 5:], columns[..., 3] = padded(values, count), 1
        for row, each in zip(columns, values, strict=True):
            row[: len(each), 3] = 0
        with h5py.File(f"{side}.hdf5", "w") as file:
            file["features"] = columns
        lines = [f"{side}{n}.jpg,{n},640,480\n" for n in range(len(values))]
        (tmp_path / f"{side}.txt").write_text("".join(lines))
    lists = {f"q{q}.jpg": {f"d{d}.jpg": 1 - d / 10 for d in range(4)} for q in range(3)}
    (tmp_path / "s.json").write_text(json.dumps(lists))
    weights = local_world.write(tmp_path, network.weights())
    words = ["--method", network.method, "--weights", weights, "--shortlist", "4"]
    words += ["--queries", "q.hdf5", "--query_ids", "q.txt"]
    words += ["--database", "d.hdf5", "--database_ids", "d.txt", "--scores", "own.json"]
    _run(tmp_path, *words, "--query_descriptors", "24", "--database_descriptors", "18")
    own = json.loads((tmp_path / "own.json").read_text())
    found = [[own[f"q{q}.jpg"][f"d{d}.jpg"] for d in range(4)] for q in range(3)]
    with np.load(network.path) as stored:
        expected = stored["small"]
    # ELViS's authors do not round the database's numbers to float16.
    rounded = network.name == "elvis_full"
    limit = 5e-3 if rounded else ORACLES[network.method][2]
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
    np.testing.assert_array_equal(np.argsort(-np.array(found)), np.argsort(-expected))


def _binary(folder, found: Descriptors, weight: np.ndarray) -> Descriptors:
    units = found.values / np.maximum(np.linalg.norm(found.values, axis=2, keepdims=True), 1e-12)
    signs = np.where(found.mask[..., None], units @ weight > 0, False)
    return dataclasses.replace(found, values=np.packbits(signs, axis=2))


def test_bits_of_files_are_those_of_the_weights(folder):
    """Numbers through the weights, their bits in a file, and such bits without weights: one score."""
    weight = np.random.default_rng(5).standard_normal((DIM, 16)).astype(np.float32)
    np.savez(folder / "w.npz", W=weight)
    words = ["--shortlist", "7", "--weights", "w.npz"]
    numbers = _local(folder, *words)
    for name in ("q", "d0", "d1"):
        path = epath.Path(folder / f"{name}.hdf5")
        opened = open_local_features(path)
        found = _binary(folder, opened.read(np.arange(opened.num_rows)), weight)
        write_local_features(path, [*opened.ids()], found)
    assert _local(folder, *words) == numbers
    plain = _local(folder, "--shortlist", "7")
    for query, row in numbers.items():
        assert list(plain[query]) == list(row) or len(set(row.values())) < len(row)
        scores = [plain[query][image] for image in row]
        np.testing.assert_allclose(scores, [*row.values()], atol=1e-3)


class _Shifting:
    """Makes something of padding too."""

    inputs, storage, input_dim, parameters = "descriptors", "float16", None, {}

    def project(self, parameters, values):
        return values + 1


def test_what_is_compared_has_zeros_as_padding(folder):
    paths = [[epath.Path(f"{name}.hdf5")] for name in ("q", "d0")]
    queries, database = open_sources(*paths, ((), ()), _Shifting(), (4, 5))
    assert (queries.num_rows, database.num_rows) == (2, 4)
    with np.load("d0.npz") as stored:
        values, counts = stored["values"][[3, 0, 3], :5], stored["counts"][[3, 0, 3]].clip(max=5)
    found = database.read(np.array([3, 0, 3]))
    assert found.counts.tolist() == counts.tolist()
    expected = np.where(found.mask[..., None], values + 1, 0).astype(np.float16)
    np.testing.assert_array_equal(found.values, expected)
    assert found.values.nbytes + 3 * 12 * 5 == 3 * database.image_bytes
    assert queries.read(np.array([0])).values.dtype == np.float32


def test_bits_are_numbers_to_methods_that_keep_numbers(folder):
    """Half precision of what is projected of +1 and -1."""
    stored = _binary(folder, _descriptors(np.random.default_rng(8), 4), np.eye(DIM))
    for name in ("q", "d0"):
        write_local_features(epath.Path(f"{name}.hdf5"), IMAGES[:4], stored)
    paths = [[epath.Path(f"{name}.hdf5")] for name in ("q", "d0")]
    queries, database = open_sources(*paths, ((), ()), _Shifting(), (MOST, MOST))
    expected = np.where(stored.mask[..., None], stored.dense() + 1, 0)
    for source, dtype in ((queries, np.float32), (database, np.float16)):
        found = source.read(np.arange(4))
        assert found.values.dtype == dtype and set(np.unique(found.values)) == {0, 2}
        np.testing.assert_array_equal(found.values, expected)


def test_a_pickled_result_is_re_ranked_and_written(folder):
    expected = _local(folder, "--shortlist", "7")
    files = ["--queries", "q.hdf5", "--database", "d0.hdf5", "d1.hdf5", "--shortlist", "7"]
    start = ["rerank", "--similarities", "s.json", "--method", "chamfer", *files]
    cli.main([*start, "--output", "out.pkl"])
    found = read_similarities(["out.pkl"])
    for number, query in enumerate(found.query_ids):
        entries, scores = found.content(number)
        assert [found.database_ids[entry] for entry in entries] == list(expected[query])
        assert scores.tolist() == [*expected[query].values()]


@pytest.mark.parametrize("name", ["nn.npz", "nn.hdf5"])
def test_rows_of_neighbours_are_lists_as_well(folder, name):
    """Their own ids, and, without them, those of the descriptors' files."""
    expected = _local(folder, "--shortlist", "7")
    ranking = to_ranking(read_similarities(["s.json"]))
    names = read_similarities(["s.json"]).database_ids
    write_neighbours(epath.Path(name), ranking, lambda rows: [names[row] for row in rows])
    files = ["--queries", "q.hdf5", "--database", "d0.hdf5", "d1.hdf5", "--shortlist", "7"]
    start = ["rerank", "--method", "chamfer", "--output", "out.json", *files, "--neighbours"]
    cli.main([*start, name])
    assert json.loads((folder / "out.json").read_text()) == expected
    index = [[IMAGES.index(names[entry]) for entry in row] for row in ranking.indices.tolist()]
    index, similarity = np.array(index)[::-1], ranking.scores[::-1]  # as the queries' file has them
    np.savez("rows.npz", index=index, similarity=similarity)
    cli.main([*start, "rows.npz"])
    assert json.loads((folder / "out.json").read_text()) == expected
    np.savez("rows.npz", index=index + 1, similarity=similarity)
    with pytest.raises(SystemExit):
        cli.main([*start, "rows.npz"])


MISTAKES = {
    "no lists": (("--similarities",), "expected at least one argument|give --similarities"),
    "both lists": (("--neighbours", "nn.npz"), "give --similarities or --neighbours"),
    "descriptors of none": (("--query_descriptors", "-1"), "rerank.query_descriptors=-1 is not"),
    "weight": (("--similarity_weight", "2"), "rerank.similarity_weight=2.0 is not allowed"),
    "one output": (("--scores", "out.json"), "--scores .*out.json is --output too"),
    "ids of another number": (
        ("--shortlist", "7", "--database_ids", "s.json"),
        "--database_ids names 1 files for 2 of descriptors",
    ),
    "missing queries": (
        ("--shortlist", "7", "--queries", "d0.hdf5"),
        r"2 of 2 queries to compare are not in .*d0.hdf5, first 'q/a.jpg', 'q/b.jpg'",
    ),
    "an image twice": (
        ("--shortlist", "7", "--database", "d0.hdf5", "d1.hdf5", "again.hdf5"),
        r"1 of [0-9] images to compare are several rows of .*again.hdf5, first 'i",
    ),
    "other descriptors": (
        ("--shortlist", "7", "--database", "wide.hdf5"),
        "q.hdf5 holds descriptors of 8 channels and .*wide.hdf5 descriptors of 9 channels",
    ),
    "M over the list": (
        ("--shortlist", "8"),
        "rerank.shortlist=8 is not allowed with lists of 7 entries; it must be 1 to 7",
    ),
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
    "ids of vectors": (
        ("--method", "superglobal", "--query_ids", "s.json"),
        "files of vectors name their rows: leave --query_ids",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(folder, case, capsys):
    words, message = MISTAKES[case]
    lists = json.loads((folder / "s.json").read_text())
    again = next(iter(lists["q/a.jpg"]))
    rng = np.random.default_rng(0)
    write_local_features(epath.Path("again.hdf5"), [again], _descriptors(rng, 1))
    write_local_features(epath.Path("wide.hdf5"), IMAGES, _descriptors(rng, 9, 9))
    with pytest.raises(SystemExit):
        _local(folder, *words)
    assert re.search(message, capsys.readouterr().err)


def test_descriptors_of_another_model_are_refused(folder, capsys):
    """Weights of a binarisation of 16 channels; bits of another length, and of none."""
    np.savez(folder / "w.npz", W=np.ones((16, 8), np.float32))
    with pytest.raises(SystemExit):
        _local(folder, "--shortlist", "7", "--weights", "w.npz")
    error = capsys.readouterr().err
    assert "holds descriptors of 8 channels, and the method's weights take 16" in error
    rng = np.random.default_rng(0)
    for name, ids in FILES.items():
        found = _binary(folder, _descriptors(rng, len(ids)), rng.standard_normal((DIM, 16)))
        write_local_features(epath.Path(folder / f"{name}.hdf5"), ids, found)
    with pytest.raises(SystemExit):
        _local(folder, "--shortlist", "7", "--weights", "w.npz")
    assert (
        "holds descriptors of 16 bits, and the method's weights take 8" in capsys.readouterr().err
    )
    weights = local_world.write(folder, NETWORKS[0].weights())
    with pytest.raises(SystemExit):
        _local(folder, "--shortlist", "7", "--method", "ames", "--weights", weights)
    assert "holds bits, which the method's weights do not make" in capsys.readouterr().err
