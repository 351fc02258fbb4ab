"""Adapter, backends and expansion through the whole search, against plain numpy."""

import dataclasses

import color_world
import jax
import numpy as np
import pytest
import rerank_oracle as oracle
from embedding_reader import alter, read
from etils import epath

from ilias_jax import benchmark
from ilias_jax.config import SearchConfig
from ilias_jax.embeddings.extract import EmbeddedDataset
from ilias_jax.embeddings.file import Embeddings, write
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.models.registry.registry import find_variant
from ilias_jax.profiling import Timings
from ilias_jax.search import pipeline
from ilias_jax.search.adapter import Adapter
from ilias_jax.search.backends import BACKENDS, backends_of, check_backend, shares_search
from ilias_jax.search.pipeline import ann_recall
from ilias_jax.search.ranking import Ranking

DIM, ADAPTED_DIM, K = 20, 12, 30


def _embedded(folder) -> tuple[EmbeddedDataset, np.ndarray, np.ndarray, np.ndarray]:
    """A dataset of shards that differ in length; its database, image queries and text queries."""
    vectors = oracle.random_unit(0, (300, DIM), np.float16)
    images, texts = (
        oracle.random_unit(1, (9, DIM), np.float16),
        oracle.random_unit(2, (6, DIM), np.float16),
    )
    parts = {
        "image_query": oracle.files_of(_new(folder / "q"), images, (9,)),
        "positive": oracle.files_of(_new(folder / "p"), vectors[:40], (40,)),
        "distractor": oracle.files_of(_new(folder / "d"), vectors[40:], (13, 0, 170, 1, 76)),
    }
    return (
        EmbeddedDataset(parts, {}, oracle.files_of(_new(folder / "t"), texts, (6,))),
        vectors,
        images,
        texts,
    )


def _new(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _search(folder, embedded, devices: int = 2, adapter: Adapter | None = None, **sections):
    if adapter is not None:
        adapter.save(folder / "adapter.safetensors")
        sections["adapter"] = {"path": str(folder / "adapter.safetensors")}
    sections["search"] = {"k": K, "block_rows": 16, **sections.get("search", {})}
    config = color_world.config(folder, **sections)
    mesh = make_mesh(devices=jax.devices()[:devices])
    return pipeline.search(config, mesh, embedded, adapter, epath.Path(folder), Timings())


CASES = {
    "nothing": {},
    "adapter": {"adapted": True},
    "expansion": {"count": 3, "alpha": 1.0},
    "adapted expansion": {"adapted": True, "count": 4, "alpha": 3.0},
}


def _expected(database, queries, adapter, count=0, alpha=1.0):
    """Scores and indices by the definition: adapter, search, expansion, search."""
    if adapter is not None:
        database = oracle.adapted(adapter, database)
        queries = oracle.adapted(adapter, queries)
    if count:
        queries = oracle.expanded(queries, database, count, alpha)
    scores, order = oracle.ranked(queries, database)
    return scores[:, :K], order[:, :K]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_rankings_equal_their_definition(tmp_path, case, backend):
    embedded, database, images, texts = _embedded(tmp_path)
    options = dict(CASES[case])
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM) if options.pop("adapted", 0) else None
    rerank = {
        "query_expansion": options.get("count", 0),
        "query_expansion_alpha": options.get("alpha", 1.0),
    }
    rankings = _search(
        tmp_path, embedded, adapter=adapter, rerank=rerank, search={"backend": backend}
    ).rankings
    # Texts never meet the adapter.
    for section, queries, used in (
        ("image_to_image", images, adapter),
        ("text_to_image", texts, None),
    ):
        scores, order = _expected(database, queries, used, **options)
        np.testing.assert_allclose(rankings[section].scores, scores, atol=5e-6)
        np.testing.assert_array_equal(rankings[section].indices, order)
        kept = Ranking.load(tmp_path / "rankings" / f"{section}.npz")
        np.testing.assert_array_equal(kept.indices, order)


def test_the_toolkits_expansion_is_reproduced_by_name(tmp_path):
    embedded, database, images, _ = _embedded(tmp_path)
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    rerank = {"query_expansion": 4, "query_expansion_weights": "before_adapter"}
    found = _search(tmp_path, embedded, adapter=adapter, rerank=rerank).rankings
    queries, ready = oracle.expanded_by_toolkit(adapter, images, database, 4)
    scores, order = oracle.ranked(queries, ready)
    np.testing.assert_allclose(found["image_to_image"].scores, scores[:, :K], atol=5e-6)
    np.testing.assert_array_equal(found["image_to_image"].indices, order[:, :K])
    others, _ = _expected(database, images, adapter, count=4)
    assert np.abs(others - scores[:, :K]).max() > 1e-3


def test_devices_and_the_cut_into_files_change_nothing(tmp_path):
    embedded, database, *_ = _embedded(tmp_path / "a")
    files = oracle.files_of(_new(tmp_path / "b"), database[40:], (200, 60))
    other = EmbeddedDataset({**embedded.images, "distractor": files}, {}, embedded.texts)
    options = {
        "adapter": oracle.random_adapter(ADAPTED_DIM, DIM),
        "rerank": {"query_expansion": 3},
    }
    folder = _new(tmp_path / "c")
    first = _search(folder, embedded, devices=1, **options).rankings
    second = _search(folder, other, devices=len(jax.devices()), **options).rankings
    for section, ranking in first.items():
        np.testing.assert_array_equal(ranking.scores, second[section].scores)
        np.testing.assert_array_equal(ranking.indices, second[section].indices)


def test_the_report_knows_what_was_done(tmp_path):
    embedded, *_ = _embedded(tmp_path)
    plain = _search(tmp_path, embedded)
    assert plain.compared == {}
    assert set(plain.facts) == {
        *("backend", "k", "block_rows", "filter", "measure_ann_recall", "scann"),
        *("built", "ann_recall"),
    }
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    facts = _search(tmp_path, embedded, adapter=adapter, rerank={"query_expansion": 3}).facts
    assert facts["adapter"] == str(tmp_path / "adapter.safetensors")
    assert len(facts["adapter_sha256"]) == 64
    assert facts["adapter_dim"] == ADAPTED_DIM
    assert (facts["query_expansion"], facts["query_expansion_alpha"]) == (3, 1.0)
    assert "weights neighbours before the adapter" in facts["query_expansion_note"]


def test_both_sections_report_their_own_index_when_they_have_their_own(tmp_path):
    vectors = oracle.random_unit(5, (1200, DIM))
    embedded = EmbeddedDataset(
        {
            "image_query": oracle.files_of(_new(tmp_path / "q"), vectors[:4], (4,)),
            "positive": oracle.files_of(_new(tmp_path / "p"), vectors[:700], (700,)),
            "distractor": oracle.files_of(_new(tmp_path / "d"), vectors[700:], (500,)),
        },
        {},
        oracle.files_of(_new(tmp_path / "t"), vectors[:4], (4,)),
    )
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    search = {"backend": "scann", "measure_ann_recall": True, "scann": {"num_leaves": 20}}
    facts = _search(tmp_path, embedded, adapter=adapter, search=search).facts
    assert set(facts["built"]) == set(facts["ann_recall"]) == {"image_to_image", "text_to_image"}
    assert facts["built"]["text_to_image"]["scann"]["num_leaves"] == 20
    assert min(facts["ann_recall"].values()) > 0.5


@pytest.mark.parametrize("role", ["image_query", "distractor"])
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "holds NaN or infinity"), (3, "has length 3 and not 1")]
)
def test_rows_that_no_search_may_see_are_named(tmp_path, role, value, message):
    """Before an adapter, which would make unit vectors of any."""
    embedded, *_ = _embedded(tmp_path)
    path = embedded.images[role].paths[-1]
    count = len(read(path).ids)
    rows = oracle.random_unit(3, (count, DIM))
    rows[count - 1] = 0
    rows[count - 1, 2] = 3
    ids = read(path).ids
    write(path, Embeddings(ids, rows, np.arange(count), {}))
    if not np.isfinite(value):
        # No file with NaN can be written.
        alter(path, lambda rows: np.where(rows == 3, np.float32(value), rows))
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    where = rf"safetensors, row {count - 1} \({ids[-1]}\) {message}"
    for options in ({"adapter": adapter}, {}):
        with pytest.raises(UserError, match=where):
            _search(tmp_path, _reopened(embedded), **options)


def _reopened(embedded: EmbeddedDataset) -> EmbeddedDataset:
    images = {split: EmbeddingFiles(files.paths) for split, files in embedded.images.items()}
    return EmbeddedDataset(images, {}, embedded.texts)


def _world(folder):
    """A dataset where a query's look-alike is a distractor, until the adapter drops a channel."""
    color_world.write(
        folder,
        {"mug/query/Q000_00.jpg": 0},
        {"mug/pos/P000_00.jpg": (1, 0.1, 0)},
        [{"a.tar/0": 2, "a.tar/1": 3}],
        {"mug/query/T000.txt": 0},
    )
    rows = np.zeros((64, 4), np.float32)
    rows[0], rows[1], rows[2], rows[3] = (3, 4, 0, 0), (3, 0, 4, 0), (0, 1, 0, 0), (0, 0, 0, 1)
    return color_world.model(rows)


def _save_adapter(folder, input_dim: int = 4) -> str:
    weight = np.eye(2, input_dim, dtype=np.float32)
    weight[1] = 0
    weight[1, -1] = 1  # keeps the first channel and the last
    Adapter(weight, np.zeros(2, np.float32)).save(folder / "adapter.safetensors")
    return str(folder / "adapter.safetensors")


def test_the_adapter_moves_image_to_image_alone(tmp_path):
    model = _world(tmp_path / "data")
    config = color_world.config(tmp_path / "data")
    raw = benchmark.run(config, epath.Path(tmp_path / "w"), model)
    config = color_world.config(tmp_path / "data", adapter={"path": _save_adapter(tmp_path)})
    adapted = benchmark.run(config, epath.Path(tmp_path / "w"), model)
    assert raw["results"]["image_to_image"]["map@1000"] == 50.0
    assert adapted["results"]["image_to_image"]["map@1000"] == 100.0
    assert raw["results"]["text_to_image"] == adapted["results"]["text_to_image"]
    assert raw["model"] == adapted["model"] and raw["dataset"] == adapted["dataset"]
    assert adapted["timings"]["stages"]["embed_images"]["items"] == 0  # nothing embedded again
    page = (tmp_path / "w" / "report" / "index.html").read_text()
    assert adapted["search"]["adapter_sha256"] in page


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"adapter": {"path": "none.pth"}}, "adapter.path: none.pth: no such file"),
        ({"adapter": {"path": "x.txt"}}, "adapter.path: x.txt is no adapter"),
        (
            {"adapter": {"path": "adapter.safetensors"}},
            "adapter.safetensors takes embeddings of 5 channels, and model colours gives 4",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_embedded(
    tmp_path, monkeypatch, sections, message
):
    monkeypatch.chdir(tmp_path)
    model = _world(tmp_path / "data")
    _save_adapter(tmp_path, input_dim=5)
    config = color_world.config(tmp_path / "data", **sections)
    with pytest.raises(UserError, match=message):
        benchmark.run(config, epath.Path(tmp_path / "w"), model)
    assert not (tmp_path / "w" / "embeddings").exists()


def test_a_named_models_channels_are_known_before_its_world_is_made(tmp_path):
    path = _save_adapter(tmp_path, input_dim=5)
    values = {"world": {"num_distractors": 10, "num_tars": 1}}
    config = color_world.config(
        tmp_path / "data", dataset=values, model={"name": "tiny"}, adapter={"path": path}
    )
    dim = find_variant("tiny").architecture.embedding_dim
    with pytest.raises(UserError, match=f"of 5 channels, and model tiny gives {dim}"):
        benchmark.run(config, epath.Path(tmp_path / "w"))
    assert not (tmp_path / "data").exists()


def test_a_dataset_without_texts_has_one_section(tmp_path):
    embedded, *_ = _embedded(tmp_path)
    found = _search(tmp_path, dataclasses.replace(embedded, texts=None))
    assert list(found.rankings) == ["image_to_image"]


def test_the_database_of_files_is_a_database():
    assert EmbeddingFiles([]).rows(np.zeros(0, np.int64)).shape == (0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backend_ranks_and_ann_recall_compares_two(tmp_path, backend):
    vectors = oracle.random_unit(0, (2000, 16))
    queries = oracle.random_unit(1, (30, 16))
    embedded = EmbeddedDataset(
        {
            "image_query": oracle.files_of(_new(tmp_path / "q"), queries, (30,)),
            "positive": oracle.files_of(_new(tmp_path / "p"), vectors[:700], (700,)),
            "distractor": oracle.files_of(_new(tmp_path / "d"), vectors[700:], (700, 600)),
        },
        {},
        None,
    )
    # So few partitions are visited that many neighbours are missed.
    scann = {"num_leaves": 50, "num_leaves_to_search": 10}
    search = {"backend": backend, "k": 20, "measure_ann_recall": True, "scann": scann}
    found = _search(tmp_path, embedded, search=search)
    exact = oracle.ranked(queries, vectors)[1][:, :20]
    recall = found.facts["ann_recall"]["image_to_image"]
    assert 0.3 < recall < 0.99
    kept, other = found.rankings["image_to_image"], found.compared["image_to_image"]
    for ranking, is_exact in ((kept, BACKENDS[backend].is_exact), (other, backend != "exact")):
        overlap = np.mean(
            [np.isin(a, b).mean() for a, b in zip(exact, ranking.indices, strict=True)]
        )
        assert overlap == pytest.approx(1.0 if is_exact else recall, abs=1e-9)
    built = found.facts["built"]["scann"]
    assert (built["num_leaves"], built["num_leaves_to_search"], built["num_parts"]) == (50, 10, 1)
    assert built["index_bytes"] > 2000 * 8  # a byte for two of 16 channels


def test_an_index_is_kept_below_the_workdir_by_section(tmp_path):
    vectors = oracle.random_unit(0, (1500, 16))

    def parts(first_distractor):
        distractors = vectors[first_distractor:]
        files = {
            "image_query": oracle.files_of(_new(tmp_path / "q"), vectors[:5], (5,)),
            "positive": oracle.files_of(_new(tmp_path / "p"), vectors[:700], (700,)),
            "distractor": oracle.files_of(_new(tmp_path / "d"), distractors, (len(distractors),)),
        }
        _search(tmp_path, EmbeddedDataset(files, {}, None), search={"backend": "scann"})
        found = (tmp_path / "index" / "image_to_image").glob("*/part-*")
        return [(path, path.stat().st_mtime_ns) for path in found]

    first = parts(700)
    assert len(first) == 1
    assert parts(700) == first  # loaded, and not built again
    assert len(parts(699)) == 2  # other files, another index


@dataclasses.dataclass(frozen=True)
class _Sorting:
    """A backend that sorts all scores."""

    is_exact = can_share = False
    vectors: np.ndarray = None
    k: int = 0

    @classmethod
    def create(cls, config, **_):
        return cls()

    def open(self, database, k):
        return _Sorting(database.vectors(), k)

    def search(self, queries):
        scores, rows = oracle.ranked(queries, self.vectors)
        return scores[:, : self.k].astype(np.float32), rows[:, : self.k].astype(np.int32)

    def facts(self):
        return {"num_sorted": len(self.vectors)}


def test_a_new_backend_is_a_class_and_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS, "sorting", _Sorting)
    embedded, database, images, _ = _embedded(tmp_path)
    search = {"backend": "sorting", "k": K, "measure_ann_recall": True}
    config = color_world.config(tmp_path, search=search)
    found = pipeline.search(config, make_mesh(), embedded, None, epath.Path(tmp_path), Timings())
    expected = oracle.ranked(images, database)[1][:, :K]
    for rankings in (found.rankings, found.compared):
        np.testing.assert_array_equal(rankings["image_to_image"].indices, expected)
    assert found.facts["built"] == {"sorting": {"num_sorted": 300}}
    assert set(found.facts["ann_recall"].values()) == {1.0}


def test_a_backend_of_another_name_is_refused():
    for name in BACKENDS:
        check_backend(name)
    with pytest.raises(UserError, match="search.backend='faiss' .* one of 'exact', 'scann'"):
        check_backend("faiss")


def test_backends_of_a_run():
    for backend, measured, expected, shared in (
        ("exact", False, ["exact"], True),
        ("scann", False, ["scann"], False),
        ("exact", True, ["exact", "scann"], False),
        ("scann", True, ["exact", "scann"], False),
    ):
        config = SearchConfig(backend=backend, measure_ann_recall=measured)
        assert backends_of(config) == expected
        assert shares_search(config) == shared


def test_ann_recall_is_the_overlap_of_the_lists():
    exact = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    approximate = np.array([[3, 2, 1, 9], [4, 9, 8, 10]])
    assert ann_recall(exact, approximate) == (3 / 4 + 1 / 4) / 2
