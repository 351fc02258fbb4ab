"""Adapter, averaging and expansion through the whole search, against plain numpy."""

import dataclasses

import color_world
import jax
import numpy as np
import pytest
import rerank_oracle as oracle
from etils import epath

from ilias_jax import benchmark
from ilias_jax.adapter import Adapter
from ilias_jax.embeddings import EmbeddingFiles, Embeddings, read, write
from ilias_jax.errors import UserError
from ilias_jax.extraction import EmbeddedDataset
from ilias_jax.mesh import make_mesh
from ilias_jax.retrieval.checks import embedding_dim
from ilias_jax.retrieval.databases import to_memory
from ilias_jax.search.exact import ExactSearch
from ilias_jax.sources import Mapped
from ilias_jax.timings import Timings

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


def _search(folder, embedded, devices: int = 8, adapter: Adapter | None = None, **sections):
    if adapter is not None:
        adapter.save(folder / "adapter.safetensors")
        sections["adapter"] = {"path": str(folder / "adapter.safetensors")}
    sections["search"] = {"k": K, "block_rows": 16, **sections.get("search", {})}
    config = color_world.config(folder, **sections)
    mesh = make_mesh(devices=jax.devices()[:devices])
    rankings, _, facts = benchmark.search(
        config, mesh, embedded, None, epath.Path(folder), Timings()
    )
    return rankings, facts


CASES = {
    "nothing": {},
    "adapter": {"adapted": True},
    "expansion": {"count": 3, "alpha": 1.0},
    "adapted expansion": {"adapted": True, "count": 4, "alpha": 3.0},
    "averaging": {"average": 2, "average_alpha": 0.0},
    "everything": {"adapted": True, "count": 5, "alpha": 0.5, "average": 3, "average_alpha": 1.0},
}


def _expected(database, queries, adapter, count=0, alpha=1.0, average=0, average_alpha=1.0):
    """Scores and indices by the definition: adapter, averaging, search, expansion, search."""
    if adapter is not None:
        database = oracle.adapted(adapter, database)
        queries = oracle.adapted(adapter, queries)
    if average:
        database = oracle.averaged(database, average, average_alpha)
    if count:
        queries = oracle.expanded(queries, database, count, alpha)
    scores, order = oracle.ranked(queries, database)
    return scores[:, :K], order[:, :K]


@pytest.mark.parametrize("backend", ["exact", "scann"])
@pytest.mark.parametrize("case", CASES)
def test_rankings_equal_their_definition(tmp_path, case, backend):
    embedded, database, images, texts = _embedded(tmp_path)
    options = dict(CASES[case])
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM) if options.pop("adapted", 0) else None
    rerank = {
        "query_expansion": options.get("count", 0),
        "query_expansion_alpha": options.get("alpha", 1.0),
        "database_averaging": options.get("average", 0),
        "database_averaging_alpha": options.get("average_alpha", 1.0),
    }
    rankings, _ = _search(
        tmp_path, embedded, adapter=adapter, rerank=rerank, search={"backend": backend}
    )
    # Texts never meet the adapter.
    for section, queries, used in (
        ("image_to_image", images, adapter),
        ("text_to_image", texts, None),
    ):
        scores, order = _expected(database, queries, used, **options)
        np.testing.assert_allclose(rankings[section].scores, scores, atol=5e-6)
        np.testing.assert_array_equal(rankings[section].indices, order)


def test_one_and_eight_devices_agree_to_the_bit(tmp_path):
    embedded, *_ = _embedded(tmp_path)
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    rerank = {"query_expansion": 3, "database_averaging": 2}
    one, eight = (
        _search(tmp_path, embedded, devices, adapter, rerank=rerank)[0] for devices in (1, 8)
    )
    for section, ranking in one.items():
        np.testing.assert_array_equal(ranking.indices, eight[section].indices)
        np.testing.assert_array_equal(ranking.scores, eight[section].scores)


def test_how_the_database_is_cut_into_files_changes_nothing(tmp_path):
    embedded, database, *_ = _embedded(tmp_path / "a")
    other = EmbeddedDataset(
        {
            **embedded.images,
            "distractor": oracle.files_of(_new(tmp_path / "b"), database[40:], (200, 60)),
        },
        {},
        embedded.texts,
    )
    rerank = {"query_expansion": 3, "database_averaging": 2}
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    first, second = (
        _search(_new(tmp_path / "c"), each, adapter=adapter, rerank=rerank)[0]
        for each in (embedded, other)
    )
    for section, ranking in first.items():
        np.testing.assert_array_equal(ranking.scores, second[section].scores)
        np.testing.assert_array_equal(ranking.indices, second[section].indices)


def test_nothing_asked_for_changes_nothing(tmp_path):
    embedded, _, images, _ = _embedded(tmp_path)
    rankings, facts = _search(tmp_path, embedded)
    index = ExactSearch(make_mesh(), 16).open(embedded.database, K)
    scores, rows = index.search(embedded.images["image_query"].vectors())
    np.testing.assert_array_equal(rankings["image_to_image"].scores, scores)
    np.testing.assert_array_equal(rankings["image_to_image"].indices, rows)
    assert set(facts) == {
        *("backend", "k", "lists", "block_rows", "filter", "measure_ann_recall", "scann"),
        *("built", "ann_recall", "sweep"),
    }


def test_the_report_knows_what_was_done(tmp_path):
    embedded, *_ = _embedded(tmp_path)
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    rerank = {"query_expansion": 3, "database_averaging": 2, "database_averaging_alpha": 2.0}
    _, facts = _search(tmp_path, embedded, adapter=adapter, rerank=rerank)
    assert facts["adapter"] == str(tmp_path / "adapter.safetensors")
    assert len(facts["adapter_sha256"]) == 64
    assert facts["adapter_dim"] == ADAPTED_DIM
    assert (facts["query_expansion"], facts["query_expansion_alpha"]) == (3, 1.0)
    assert (facts["database_averaging"], facts["database_averaging_alpha"]) == (2, 2.0)


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
    _, facts = _search(tmp_path, embedded, adapter=adapter, search=search)
    assert set(facts["built"]) == set(facts["ann_recall"]) == {"image_to_image", "text_to_image"}
    assert facts["built"]["text_to_image"]["scann"]["num_leaves"] == 20
    assert min(facts["ann_recall"].values()) > 0.5


def test_databases_that_stand_for_files_agree_with_themselves(tmp_path):
    embedded, database, *_ = _embedded(tmp_path)
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    adapted = Mapped(embedded.database, adapter.apply)
    memory = to_memory(adapted, 37)
    expected, indices = oracle.adapted(adapter, database), np.array([[299, 0], [41, 299]])
    for each in (adapted, memory):
        assert each.num_rows() == 300 and each.ids() == embedded.database.ids()
        np.testing.assert_allclose(each.vectors(), expected, atol=1e-6)
        blocks = list(each.blocks(64))
        assert [len(block) for block in blocks] == [64] * 4 + [44]
        np.testing.assert_array_equal(np.concatenate(blocks), each.vectors())
        np.testing.assert_array_equal(each.rows(indices), each.vectors()[indices])
        assert each.place_of(299) == embedded.database.place_of(299)
    assert memory.array.dtype == np.float32


@pytest.mark.parametrize("role", ["image_query", "distractor"])
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "holds NaN or infinity"), (3, "has length 3 and not 1")]
)
def test_rows_that_no_search_may_see_are_named(tmp_path, role, value, message):
    """Before an adapter and before averaging, which would make unit vectors of any."""
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
        data = path.read_bytes()
        path.write_bytes(data.replace(np.float32(3).tobytes(), np.float32(value).tobytes()))
    adapter = oracle.random_adapter(ADAPTED_DIM, DIM)
    where = rf"safetensors, row {count - 1} \({ids[-1]}\) {message}"
    for options in ({"adapter": adapter}, {"rerank": {"database_averaging": 2}}):
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
        (
            {"rerank": {"database_averaging": 1, "database_averaging_gib": 1e-8}},
            "rerank.database_averaging needs 96 bytes .* for 3 vectors of 4 channels, more than",
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
    dim = embedding_dim(config.model, None)
    with pytest.raises(UserError, match=f"of 5 channels, and model tiny gives {dim}"):
        benchmark.run(config, epath.Path(tmp_path / "w"))
    assert not (tmp_path / "data").exists()


def test_averaging_is_refused_by_the_search_too(tmp_path):
    embedded, *_ = _embedded(tmp_path)
    rerank = {"database_averaging": 1, "database_averaging_gib": 1e-6}
    with pytest.raises(UserError, match="needs 48,000 bytes .* 300 vectors of 20 channels"):
        _search(tmp_path, embedded, rerank=rerank)


def test_a_dataset_without_texts_has_one_section(tmp_path):
    embedded, *_ = _embedded(tmp_path)
    rankings, _ = _search(tmp_path, dataclasses.replace(embedded, texts=None))
    assert list(rankings) == ["image_to_image"]


def test_the_database_of_files_is_a_database():
    assert EmbeddingFiles([]).rows(np.zeros(0, np.int64)).shape == (0, 0)
