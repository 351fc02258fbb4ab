"""The whole pipeline on datasets whose scores are known by construction."""

import dataclasses
import json
import math
import shutil

import color_world
import numpy as np
import pytest
from embedding_reader import read
from etils import epath

from ilias_jax import benchmark
from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.metrics.compare import read_run_scores
from ilias_jax.search.ranking import Ranking


def _map(document) -> float:
    return document["results"]["image_to_image"]["map@1000"]


def _perfect(folder, color_of=lambda i, j: i):
    """Five objects of a colour each; every other colour is a distractor's.

    `color_of` gives the colour of positive j of object i.
    """
    objects = [f"thing_{i:03d}" for i in range(5)]
    color_world.write(
        folder,
        {f"{name}/query/Q{i:03d}_00.jpg": i for i, name in enumerate(objects)},
        {
            f"{name}/pos/P{i:03d}_{j:02d}.jpg": (color_of(i, j), 0.05 + 0.2 * j, 20 * j)
            for i, name in enumerate(objects)
            for j in range(3)
        },
        [{f"a.tar/{c}": c for c in range(5, 30)}, {f"b.tar/{c}": c for c in range(30, 64)}],
        {f"{name}/query/T{i:03d}.txt": i for i, name in enumerate(objects)},
    )
    return color_world.model(np.eye(64, dtype=np.float32))


def test_a_perfect_world_scores_exactly_100(tmp_path):
    model = _perfect(tmp_path / "data")
    config = color_world.config(tmp_path / "data")
    document = benchmark.run(config, epath.Path(tmp_path / "work"), model)
    for section in ("image_to_image", "text_to_image"):
        result = document["results"][section]
        assert result["map@1000"] == 100.0
        assert result["oracle"] == 100.0
        assert result["ci95"] == [100.0, 100.0]
        assert set(result["scale"].values()) == set(result["clutter"].values()) == {100.0}
    written = json.loads((tmp_path / "work" / "report" / "report.json").read_text())
    assert written["results"]["image_to_image"]["map@1000"] == 100.0
    assert written["dataset"]["num_distractors"] == 59
    assert written["dataset"]["num_positives"] == 15
    reasons = written["published"]["text_to_image"]["reasons"]
    assert "the published table has no model colours" in reasons


def test_a_report_is_read_back_for_a_comparison(tmp_path):
    model = _by_hand(tmp_path / "data")
    config = color_world.config(tmp_path / "data")
    document = benchmark.run(config, epath.Path(tmp_path / "work"), model)
    run = read_run_scores(tmp_path / "work")
    assert (run.model, run.k, run.database["num_distractors"]) == ("colours", 1000, 4)
    assert run.objects == {"cup": ("all", "mid"), "mug": ("all", "mid")}
    for name, result in document["results"].items():
        assert run.sections[name].aps == result["aps"]
        for group in ("scale", "clutter"):
            found = run.sections[name].group_aps[group]
            means = {key: sum(aps.values()) / len(aps) for key, aps in found.items()}
            assert means == pytest.approx(result[group])


def _by_hand(folder):
    """One query's scores are cosines that are chosen; see the test for the ranking."""
    cosines = {0: 1.0, 1: 0.95, 2: 0.9, 3: 0.7, 4: 0.6, 5: 0.5, 6: 0.1}
    table = np.zeros((64, 3), np.float32)
    for color, cosine in cosines.items():
        table[color] = (cosine, math.sqrt(1 - cosine * cosine), 0)
    table[7:] = (0, 0, 1)
    color_world.write(
        folder,
        {"mug/query/Q000_00.jpg": 0, "cup/query/Q001_00.jpg": 7},
        {
            "mug/pos/P000_00.jpg": (2, 0.05, 0),
            "mug/pos/P000_01.jpg": (5, 0.5, 60),
            "cup/pos/P001_00.jpg": (3, 0.2, 20),
        },
        [{"a.tar/0": 1, "a.tar/1": 4}, {"b.tar/0": 5, "b.tar/1": 6}],
        {"mug/query/T000.txt": 0, "cup/query/T001.txt": 0},
    )
    return color_world.model(table)


def test_a_ranking_by_hand_scores_exactly_what_the_hand_computes(tmp_path):
    model = _by_hand(tmp_path / "data")
    config = color_world.config(tmp_path / "data")
    document = benchmark.run(config, epath.Path(tmp_path / "work"), model)
    result = document["results"]["image_to_image"]
    # mug: a.tar/0 .95, P000_00 .9, P001_00 .7, a.tar/1 .6, then P000_01 and b.tar/0 tie at .5
    # (precision at the end of the tie, rank 6), b.tar/1 .1. AP = (1/2 + 2/6) / 2.
    mug = 100 * (1 / 2 + 2 / 6) / 2
    # cup: all scores are 0, one tie of all seven rows that ends at rank 7, one positive. AP = 1/7.
    cup = 100 / 7
    aps = result["aps"]
    assert aps["mug/query/Q000_00.jpg"] == pytest.approx(mug, abs=1e-9)
    assert aps["cup/query/Q001_00.jpg"] == pytest.approx(cup, abs=1e-9)
    assert result["map@1000"] == pytest.approx((mug + cup) / 2, abs=1e-9)
    # Smallest objects: only P000_00 counts, its other positive is taken out: rank 2, AP 1/2.
    assert result["scale"]["0-0.06880213760855043"] == pytest.approx(50.0, abs=1e-9)
    # Most clutter: only P000_01 counts; P000_00 is taken out, so the tie ends at rank 5, AP 1/5.
    assert result["clutter"]["53-inf"] == pytest.approx(20.0, abs=1e-9)
    # Text of the cup looks like the mug: its positive is third, AP 1/3.
    text = document["results"]["text_to_image"]["aps"]
    assert text["cup/query/T001.txt"] == pytest.approx(100 / 3, abs=1e-9)
    ranking = Ranking.load(epath.Path(tmp_path / "work" / "rankings" / "image_to_image.npz"))
    np.testing.assert_array_equal(ranking.indices[0], [3, 0, 2, 4, 1, 5, 6])
    np.testing.assert_array_equal(ranking.indices[1], np.arange(7))


def test_a_second_run_embeds_nothing_and_scores_the_same(tmp_path):
    model = _by_hand(tmp_path / "data")
    config = color_world.config(tmp_path / "data")
    first = benchmark.run(config, epath.Path(tmp_path / "work"), model)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/embeddings/*/*")}
    second = benchmark.run(config, epath.Path(tmp_path / "work"), model)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/embeddings/*/*")}
    assert first["results"] == second["results"]
    stages = second["timings"]["stages"]
    assert stages["embed_images"]["skipped"] == first["timings"]["stages"]["embed_images"]["items"]
    assert stages["embed_images"]["items"] == stages["embed_text_query"]["items"] == 0


def test_other_pictures_under_the_same_names_are_embedded_again(tmp_path):
    model = _perfect(tmp_path / "data")
    config = color_world.config(tmp_path / "data")
    assert _map(benchmark.run(config, epath.Path(tmp_path / "work"), model)) == 100.0
    shutil.rmtree(tmp_path / "data")
    _perfect(tmp_path / "data", color_of=lambda i, j: i if j else 40 + i)
    fresh = _map(benchmark.run(config, epath.Path(tmp_path / "fresh"), model))
    assert fresh < 100.0
    assert _map(benchmark.run(config, epath.Path(tmp_path / "work"), model)) == fresh


@pytest.mark.parametrize("change", ["model", "resolution", "storage"])
def test_a_changed_model_or_preprocessing_reuses_no_embedding(tmp_path, change):
    model = _by_hand(tmp_path / "data")
    config = color_world.config(tmp_path / "data")
    benchmark.run(config, epath.Path(tmp_path / "work"), model)
    if change == "model":
        model = color_world.model(model.parameters["table"][::-1], name="other colours")
    elif change == "storage":
        config = color_world.config(tmp_path / "data", embed={"storage_dtype": "float16"})
    else:
        import dataclasses

        how = dataclasses.replace(model.preprocessing, resolution=8, patch_size=8)
        model = dataclasses.replace(model, preprocessing=how)
    document = benchmark.run(config, epath.Path(tmp_path / "work"), model)
    assert document["timings"]["stages"]["embed_images"]["skipped"] == 0
    folders = list((tmp_path / "work" / "embeddings").iterdir())
    assert len(folders) == 2


def test_every_image_is_embedded_once_whatever_the_batch(tmp_path):
    model = _perfect(tmp_path / "data")
    found = []
    for size in (1, 2, 5):
        config = color_world.config(tmp_path / "data", embed={"batch_size_per_device": size})
        work = tmp_path / f"work{size}"
        benchmark.run(config, epath.Path(work), model)
        parts = [read(epath.Path(p)) for p in sorted(work.glob("embeddings/*/distractor*"))]
        found.append(([i for part in parts for i in part.ids], [p.vectors for p in parts]))
    ids, vectors = found[0]
    assert ids == [f"a.tar/{c}" for c in range(5, 30)] + [f"b.tar/{c}" for c in range(30, 64)]
    for other_ids, other_vectors in found[1:]:
        assert other_ids == ids
        for a, b in zip(vectors, other_vectors, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_map_beside_exact_reaches_the_report(tmp_path):
    # No index is built for so few rows: ScaNN's rankings are the exact ones.
    model = _perfect(tmp_path / "data")
    config = color_world.config(tmp_path / "data", search={"measure_ann_recall": True})
    document = benchmark.run(config, epath.Path(tmp_path), model)
    assert document["search"]["map_minus_exact"] == dict.fromkeys(document["results"], 0.0)
    assert document["search"]["ann_recall"] == dict.fromkeys(document["results"], 1.0)


def test_the_map_beside_exact_has_the_sign_of_scanns_gain():
    class Scored:
        def __init__(self, value):
            self.map = value

    exact, scann = {"image_to_image": Scored(20.0)}, {"image_to_image": Scored(19.5)}
    for backend, results, others in (("exact", exact, scann), ("scann", scann, exact)):
        assert benchmark.map_minus_exact(backend, results, others) == {"image_to_image": -0.5}
    assert benchmark.map_minus_exact("exact", exact, {}) is None


def test_weights_that_do_not_fit_are_seen_before_the_distractors_are_checked(tmp_path, monkeypatch):
    """The check reads 100 million ids, which takes minutes."""
    _perfect(tmp_path / "data")
    np.savez(tmp_path / "weights.npz", other=np.zeros(3))
    values = {"name": "tiny", "towers": "image", "checkpoint": str(tmp_path / "weights.npz")}
    config = color_world.config(tmp_path / "data")
    config = dataclasses.replace(config, model=ModelConfig(**values))
    monkeypatch.setattr(benchmark, "check_distractors", lambda *_: pytest.fail("too early"))
    with pytest.raises(UserError, match="does not fit the model"):
        benchmark.run(config, epath.Path(tmp_path / "work"))


def test_shards_that_are_not_the_ground_truths_are_refused(tmp_path):
    model = _by_hand(tmp_path / "data")
    path = tmp_path / "data" / "image_ids" / "positive_ids.txt"
    path.write_text(path.read_text() + "mug/pos/P000_09.jpg,0.1,3\n")
    with pytest.raises(UserError, match=r"positives .* 1 missing \['mug/pos/P000_09.jpg'\], 0 ext"):
        benchmark.run(color_world.config(tmp_path / "data"), epath.Path(tmp_path / "w"), model)
    assert not (tmp_path / "w" / "embeddings").exists()  # before any work is done


def test_mini_searches_the_listed_distractors_alone(tmp_path):
    model = _by_hand(tmp_path / "data")
    (tmp_path / "data" / "image_ids" / "mini_ilias_yfcc100m_ids.txt").write_text(
        "a.tar/1\nb.tar/1\n"
    )
    config = color_world.config(tmp_path / "data", dataset={"subset": "mini"})
    document = benchmark.run(config, epath.Path(tmp_path / "w"), model)
    assert document["dataset"]["num_distractors"] == 2
    # Without a.tar/0 and b.tar/0: P000_00 first, P000_01 fourth.
    aps = document["results"]["image_to_image"]["aps"]
    assert aps["mug/query/Q000_00.jpg"] == pytest.approx(100 * (1 + 2 / 4) / 2, abs=1e-9)


def test_a_folder_with_another_world_is_refused(tmp_path, small_world):
    world = {"seed": 3, "num_objects": 6, "num_image_queries": 9, "num_positives": 14}
    config = color_world.config(
        small_world, dataset={"world": {**world, "num_distractors": 40, "num_tars": 3}}
    )
    with pytest.raises(UserError, match="holds the world .*'num_image_queries': 8.* asks for .* 9"):
        benchmark.run(config, epath.Path(tmp_path), color_world.model(np.eye(64)))


def test_an_image_model_without_texts_gives_one_result(tmp_path):
    import dataclasses

    model = dataclasses.replace(_perfect(tmp_path / "data"), embed_texts=None, tokenize=None)
    config = color_world.config(tmp_path / "data")
    document = benchmark.run(config, epath.Path(tmp_path / "work"), model)
    assert list(document["results"]) == ["image_to_image"]
