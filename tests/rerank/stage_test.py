"""Re-ranking within a run: what is extracted, kept, ordered and reported."""

import json
import shutil

import jax
import numpy as np
import patch_model
import pytest
from etils import epath

from ilias_jax import cli
from ilias_jax.dataset import layout
from ilias_jax.dataset.layout import follows_exif
from ilias_jax.embeddings.file import read_ids
from ilias_jax.errors import UserError
from ilias_jax.preprocessing.local_patches import jpeg_to_local_patches
from ilias_jax.preprocessing.views import normalize
from ilias_jax.rerank import extract
from ilias_jax.rerank.stage import RERANKED
from ilias_jax.search.ranking import Ranking


@pytest.fixture(scope="module")
def finished(small_world, tmp_path_factory):
    """A run with shortlists of ten, and its document."""
    work = tmp_path_factory.mktemp("reranked") / "work"
    return work, patch_model.run(small_world, work)


def _ranking(work, name: str) -> Ranking:
    return Ranking.load(epath.Path(work) / "rankings" / f"{name}.npz")


def _extracted(work, split: str) -> list[str]:
    paths = sorted(epath.Path(work).glob(f"descriptors/*/{split}-*.safetensors"))
    return [name for path in paths for name in read_ids(path)]


def test_the_first_entries_are_sorted_anew_and_the_tail_stays(finished):
    work, _ = finished
    before, after = _ranking(work, "image_to_image"), _ranking(work, RERANKED)
    assert before.query_ids == after.query_ids
    np.testing.assert_array_equal(before.indices[:, 10:], after.indices[:, 10:])
    for one, other in zip(before.indices[:, :10], after.indices[:, :10], strict=True):
        assert set(one) == set(other)
    assert (before.indices != after.indices).any()
    assert (np.diff(after.scores, axis=1) < 0).all()


def test_only_images_of_shortlists_are_described(finished, small_world):
    work, document = finished
    images = np.unique(_ranking(work, "image_to_image").indices[:, :10])
    assert document["rerank"]["num_images"] == len(images) < 54
    assert len(_extracted(work, "image_query")) == 8
    assert len(_extracted(work, "positive")) == (images < 14).sum()
    assert len(_extracted(work, "distractor")) == (images >= 14).sum()


def test_scores_are_those_of_images_one_by_one(finished, small_world):
    """The mean of the largest cosines, from each image's own patches, in float64."""
    work, _ = finished
    dataset = patch_model.open_dataset(small_world)
    tokens = {}
    for split in ("image_query", "positive", "distractor"):
        for shard in dataset.shards(split):
            for record in dataset.read(shard, lambda record: record, 1):
                patches = jpeg_to_local_patches(
                    record.jpeg,
                    (),
                    patch_model.model().preprocessing,
                    "area_linear",
                    follows_exif(split),
                )
                pixels = normalize(patches.pixels, (0.5,) * 3 * 256, (0.5,) * 3 * 256)
                found = np.tanh(pixels.astype(np.float64) @ patch_model.KERNEL)
                tokens[record.image_id] = found / np.linalg.norm(found, axis=1, keepdims=True)
    names = patch_model.database_ids(small_world)
    after = _ranking(work, RERANKED)
    for query, row, scores in zip(after.query_ids, after.indices, after.scores, strict=True):
        products = [tokens[query] @ tokens[names[index]].T for index in row[:10]]
        expected = [product.max(axis=1).mean() for product in products]
        np.testing.assert_allclose(scores[:10], expected, atol=2e-3)  # of float16


def test_the_report_says_what_was_done(finished):
    work, document = finished
    facts = document["rerank"]
    assert facts["method"] == "chamfer" and facts["shortlist"] == 10
    assert facts["model"] == "patches" and facts["crop_queries"] is False
    before = document["results"]["image_to_image"]["map@30"]
    after = document["results"][RERANKED]["map@30"]
    assert facts["difference"]["map"]["difference"] == pytest.approx(after - before)
    assert 0 < facts["shortlist_recall"] <= document["results"]["image_to_image"]["oracle"]
    page = (work / "report" / "index.html").read_text()
    assert "Re-ranking" in page and "<line " in page and "re-ranked: gained queries" in page
    assert RERANKED not in document["published"]


def test_a_longer_shortlist_extracts_new_images_alone(finished, small_world, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(finished[0], work)
    document = patch_model.run(small_world, work, shortlist=20)
    fresh = tmp_path / "fresh"
    patch_model.run(small_world, fresh, shortlist=20)
    described = _extracted(work, "distractor")
    assert len(described) == len(set(described))
    assert sorted(described) == sorted(_extracted(fresh, "distractor"))
    stages = document["timings"]["stages"]
    old = np.unique(_ranking(finished[0], "image_to_image").indices[:, :10])
    assert stages["extract_descriptors_positive"]["skipped"] == len(old)
    one, other = _ranking(work, RERANKED), _ranking(fresh, RERANKED)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_a_second_run_scores_nothing_again(finished, small_world, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(finished[0], work)
    document = patch_model.run(small_world, work, similarity_weight=0.5)
    assert document["timings"]["stages"]["rerank"]["skipped"] == 8
    scores = next(iter(work.glob("rerank/*/*.npz")))
    scores.write_bytes(scores.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{scores.name} is damaged .* remove it"):
        patch_model.run(small_world, work)


def test_another_model_has_descriptors_of_its_own(finished, small_world, tmp_path, monkeypatch):
    work = tmp_path / "work"
    shutil.copytree(finished[0], work)
    monkeypatch.setattr(patch_model, "KERNEL", 2 * patch_model.KERNEL)
    monkeypatch.setattr(patch_model.model, "__defaults__", (patch_model.KERNEL,))
    patch_model.run(small_world, work)
    assert len(list(work.glob("descriptors/*"))) == 2 * len(list(finished[0].glob("descriptors/*")))


@pytest.mark.slow  # ILIAS_TEST_DEVICES=8
@pytest.mark.eight_devices
def test_eight_devices_and_one_give_the_same(small_world, tmp_path, monkeypatch):
    devices, found = jax.local_devices(), {}
    assert len(devices) == 8
    for count in (1, 8):
        monkeypatch.setattr(jax, "local_devices", lambda count=count: devices[:count])
        work = tmp_path / f"on {count}"
        patch_model.run(small_world, work)
        paths = [*work.glob("descriptors/*/*"), *work.glob("rankings/*"), *work.glob("rerank/*/*")]
        found[count] = {path.relative_to(work): path.read_bytes() for path in paths}
    assert found[1] == found[8] != {}


def test_what_does_not_fit_is_refused(small_world, tmp_path):
    with pytest.raises(UserError, match=r"rerank.shortlist=31 .* <= search.k=30"):
        patch_model.config(small_world, shortlist=31)
    with pytest.raises(UserError, match=r"rerank.method='best' .* 'chamfer'"):
        patch_model.run(small_world, tmp_path, method="best")
    with pytest.raises(UserError, match="model patches takes .* set rerank.resolution=64"):
        patch_model.run(small_world, tmp_path, method="spatial")
    with pytest.raises(UserError, match="no such file of weights"):
        patch_model.run(small_world, tmp_path, detector=str(tmp_path / "none.pt"))


def test_mended_boxes_are_cut_to_anew(small_world, tmp_path, monkeypatch):
    work = tmp_path / "work"
    patch_model.run(small_world, work, crop_queries=True)
    folders = set(work.glob("descriptors/*")) | set(work.glob("rerank/*"))
    monkeypatch.setattr(extract, "boxes_digest", lambda dataset, shard: "mended")
    patch_model.run(small_world, work, crop_queries=True)
    now = set(work.glob("descriptors/*")) | set(work.glob("rerank/*"))
    assert len(now - folders) == 2  # of the queries, and of the scores


def test_exports_have_both_orders(finished, tmp_path):
    from ilias_jax.official.export import export_rankings

    work, _ = finished
    written = export_rankings(epath.Path(work), epath.Path(tmp_path), "json")
    names = [path.name for path in written]
    assert names == ["similarities_image_to_image.json", f"similarities_{RERANKED}.json"]
    lists = [json.loads(path.read_text()) for path in written]
    assert [set(found) for found in lists[0].values()] == [
        set(found) for found in lists[1].values()
    ]


def test_settings_are_tuned_on_other_datasets_alone(finished, small_world, capsys, monkeypatch):
    """The best is at least as good as the run's own order; ILIAS's labels are refused."""
    work, document = finished
    words = ["tune", "--workdir", str(work), "--ids", str(small_world)]
    cli.main(words)
    lines = capsys.readouterr().out.splitlines()
    best = float(lines[1].split()[0])
    own = document["results"][RERANKED]["map@30"]
    assert best >= round(own, 2) and len(lines) == 6
    monkeypatch.setitem(layout.OFFICIAL_CORE, "positive", 14)
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "these are the labels of ILIAS" in capsys.readouterr().err
