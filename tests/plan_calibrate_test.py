"""Measurements: shapes of their results, and that they run what is configured."""

import dataclasses
import pathlib
import types

import jax
import numpy as np
import plan_case as case
import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.plan import (
    calibrate,
    calibrate_disk,
    calibrate_embed,
    calibrate_host,
    calibrate_metrics,
    calibrate_scann,
    calibrate_search,
    constants,
    stopwatch,
)
from ilias_jax.plan.calibrate_embed import Trial
from ilias_jax.plan.calibrate_search import Rows, SearchTimes
from ilias_jax.plan.constants import Linear, SearchCost
from ilias_jax.plan.flops import image_flops
from ilias_jax.plan.pictures import photograph, world_picture
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.scann import ScannSearch
from ilias_jax.towers.variants import VARIANTS

SMALL = case.make_recipe(
    embed={"batch_size_per_device": 2, "num_buckets": 2, "canvas": 160},
    search={"k": 10, "block_rows": 64},
    metrics={"num_resamples": 40},
)


def two_devices() -> jax.sharding.Mesh:
    return make_mesh(devices=jax.devices()[:2])


def test_a_photograph_is_as_large_as_the_mean_official_image():
    sizes = [len(photograph(seed)) for seed in range(3)]
    assert 55_000 < np.mean(sizes) < 71_000
    assert photograph(1) == photograph(1) != photograph(2)
    assert 5_000 < len(world_picture(0)) < 50_000


def test_the_first_call_compiles_and_is_not_counted(monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 11.0, 20.0, 21.0])
    monkeypatch.setattr(stopwatch, "time", types.SimpleNamespace(perf_counter=clock.__next__))
    calls = []
    assert stopwatch.steady_seconds(lambda: calls.append(1), 4.5) == 1.0
    assert len(calls) == 4  # the first, and three of 2, 1 and 1 s


def test_a_call_is_timed_once_even_without_time():
    calls = []
    assert stopwatch.steady_seconds(lambda: calls.append(1), 0.0) >= 0
    assert len(calls) == 2


def test_the_disk_is_measured_in_the_folder_and_left_as_it_was(tmp_path):
    cost = calibrate_disk.measure(tmp_path, 0.05)
    assert cost.write > 0 and cost.read > 0 and cost.convert > 0
    assert str(tmp_path) in cost.how[0]
    assert list(tmp_path.iterdir()) == []


def test_a_tar_of_photographs_is_converted_whole(tmp_path):
    calibrate_disk.convert_rate(tmp_path, 0)
    names = [path.name for path in (tmp_path / "data").rglob("*.json")]
    assert names == ["distractor-00000-of-00001.json"]


def test_images_are_read_as_a_run_reads_them(tmp_path, monkeypatch):
    seen = []
    pack = calibrate_host.batch_items

    def spy(items, lengths, batch_size):
        for batch in pack(items, lengths, batch_size):
            seen.append(batch.arrays[0].shape)
            yield batch

    monkeypatch.setattr(calibrate_host, "batch_items", spy)
    cost = calibrate_host.measure(SMALL, tmp_path, 0.1)
    assert min(cost.photo_reads, cost.world_reads, cost.world_draws, cost.world_bytes) > 0
    assert set(seen) == {(2, 160, 160, 3)}
    assert list(tmp_path.iterdir()) == []


def test_every_length_is_embedded_in_the_configured_batches(monkeypatch):
    shapes = []
    run = calibrate_embed.Embedder.run

    def spy(self, batches):
        batches = list(batches)
        shapes.extend(array.shape for batch in batches for array in batch.arrays)
        return run(self, batches)

    monkeypatch.setattr(calibrate_embed.Embedder, "run", spy)
    monkeypatch.setattr(calibrate_embed, "choose", lambda *_: Trial(4, 2))
    cost = calibrate_embed.measure(SMALL, two_devices(), [32, 64], 0.2)
    assert set(cost.batch_seconds) == {32, 64}
    assert all(seconds > 0 for seconds in cost.batch_seconds.values())
    assert cost.temporary_bytes > 0 and cost.flops_per_second > 0
    for length in (32, 64):  # two images on each of two devices
        assert (4, length) in shapes
    assert (4, 160, 160, 3) in shapes
    assert "operations" not in cost.how[0]


@pytest.mark.parametrize(
    ("section", "dtype"),
    [({"embed": {"canvas": 0}}, "uint8"), ({"views": {"scales": (0.5,)}}, "f")],
)
def test_without_a_canvas_patches_are_embedded(section, dtype):
    patches, sizes = calibrate_embed._arrays(case.make_recipe(**section), 3, 64)
    assert patches.shape == (3, 64, 768) and patches.dtype == dtype
    np.testing.assert_array_equal(sizes, [[128, 128]] * 3)


def test_parts_of_a_batch_are_measured_where_time_is_short():
    mesh, layers = two_devices(), 4

    def choose(seconds: float) -> Trial:
        one = image_flops(case.RECIPE.image, 64)
        rate = calibrate_embed._ROOM * one * 2  # of one image on each device a second
        return calibrate_embed.choose(case.RECIPE, mesh, 64, rate, seconds)

    assert choose(33) == Trial(layers, 32)
    assert choose(20) == Trial(2, 32)  # fewer layers first
    assert choose(1).depth == 1 and 1 < choose(1).size < 32
    assert choose(0) == Trial(1, 1)


def test_a_model_without_text_head_is_shrunk_too():
    """Its text tower is as wide as its image tower, which the smallest one is not."""
    architecture = VARIANTS["vit_so400m_patch16_siglip_256.webli_i18n"].architecture
    shrunk = calibrate_embed._shrunk(architecture.image, 1)
    size = dataclasses.replace(architecture.image.size, depth=1)
    assert shrunk == dataclasses.replace(architecture.image, size=size)


def test_parts_are_extrapolated_by_operations(monkeypatch):
    monkeypatch.setattr(
        calibrate_embed, "_seconds", lambda recipe, mesh, trial, length, budget: 2.0
    )
    monkeypatch.setattr(calibrate_embed, "temporary_bytes", lambda *_: 7)
    monkeypatch.setattr(calibrate_embed, "choose", lambda *_: Trial(1, 4))
    cost = calibrate_embed.measure(case.RECIPE, two_devices(), [64], 1.0)
    config = case.RECIPE.image
    shallow = calibrate_embed._shrunk(config, 1)
    ratio = image_flops(config, 64) / image_flops(shallow, 64) * 32 / 4
    assert cost.batch_seconds[64] == pytest.approx(2.0 * ratio)
    assert "from 1 of 4 layers, 4 of 32 images a device, by operations" in cost.how[0]


def test_the_compiler_plans_memory_for_the_whole_batch():
    mesh = two_devices()
    small = calibrate_embed.temporary_bytes(SMALL, mesh, 64)
    large = case.make_recipe(embed={"batch_size_per_device": 64})
    # Activations of 64 images and not of 2; XLA reuses buffers, so no exact number.
    assert calibrate_embed.temporary_bytes(large, mesh, 64) > 10 * small


def test_a_batch_that_does_not_fit_is_a_message(monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(calibrate_embed, "steady_seconds", fail)
    with pytest.raises(UserError, match=r"embed.batch_size_per_device=2: .* 9 bytes.*lower it"):
        calibrate_embed._seconds(SMALL, two_devices(), Trial(1, 2), 64, 1.0)


def test_a_search_is_measured_over_configured_blocks():
    asked = []
    mesh = two_devices()
    exact = ExactSearch(mesh, 64, quiet=True)

    def search(rows, queries):
        asked.append((rows.num_rows(), rows.vectors().dtype, len(queries), rows.array.shape[1]))
        return exact.open(rows, 10).search(queries)

    costs = calibrate_search.measure(SMALL, mesh, search, 0.5)
    assert min(dataclasses.astuple(costs.search)) >= 0
    assert costs.search.pair >= costs.product > 0
    sizes = {rows for rows, *_ in asked}
    assert min(sizes) == 2 * 64 and max(sizes) >= 2 * min(sizes)  # a block on each device
    assert {(dtype.name, dim) for _, dtype, _, dim in asked} == {("float16", 192)}
    assert {100} < {count for _, _, count, _ in asked}


def times_of(cost: SearchCost, few: int, many: int, block: int, blocks: int) -> SearchTimes:
    def seconds(n, q):
        return cost.seconds(n * block, q)

    return SearchTimes(
        seconds(1, few), seconds(blocks, few), seconds(blocks, many), few, many, block, blocks
    )


@pytest.mark.parametrize("blocks", [2, 5])
def test_a_cost_is_found_again_from_its_times(blocks):
    cost = SearchCost(0.25, 1e-6, 1e-8)
    found = calibrate_search.fit(times_of(cost, 100, 1232, 2048, blocks))
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(cost))


def test_noise_makes_no_negative_cost():
    found = calibrate_search.fit(SearchTimes(1.0, 0.9, 0.8, 100, 400, 10, 2))
    assert min(dataclasses.astuple(found)) >= 0
    upside_down = calibrate_search.fit(SearchTimes(0.1, 1.1, 0.5, 100, 400, 10, 2))
    assert upside_down.pair > 0 and upside_down.row >= 0


def test_random_rows_are_normalised_and_all_different():
    rows = calibrate_search.random_rows(50, 16, "float16")
    assert rows.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=2e-3)
    assert len(np.unique(rows, axis=0)) == 50


def test_rows_are_a_source_of_vectors():
    source = Rows(np.arange(10, dtype=np.float32).reshape(5, 2))
    assert (source.num_rows(), len(source.ids())) == (5, 5)
    np.testing.assert_array_equal(np.concatenate(list(source.blocks(2))), source.vectors())
    np.testing.assert_array_equal(source.rows(np.array([4, 0])), [[8, 9], [0, 1]])
    assert "row 3" in source.place_of(3)


def test_scann_is_measured_on_an_index_of_the_recipe():
    built = []

    def build(rows):
        built.append(rows.num_rows())
        return ScannSearch(SMALL.config.search.scann).open(rows, 10).search

    costs = calibrate_scann.measure(SMALL, build, 0.1)
    assert built == [4096]
    assert costs.build > 0 and costs.search > 0
    assert calibrate_scann.num_rows_for(SMALL, 1e9) == 32_768


def test_metrics_are_a_line_through_the_two_sizes():
    found = calibrate_metrics.fit([100, 1100], [0.2, 1.2])
    assert dataclasses.astuple(found) == pytest.approx((0.1, 0.001))
    assert calibrate_metrics.fit([100, 1100], [0.2, 0.1]) == Linear(0.2, 0.0)
    assert calibrate_metrics.fit([100, 200], [0.1, 0.4]).fixed == 0.0


def test_made_up_rankings_are_scored_whole():
    metrics = calibrate_metrics.scoring(SMALL, case.SIZES)()
    assert len(metrics.aps) == 40
    truth = calibrate_metrics.made_up_truth(case.SIZES)
    assert (len(truth.positive_ids), len(truth.objects())) == (50, 10)


def test_everything_is_measured_and_comes_back_from_its_file(tmp_path):
    told = []
    found = calibrate.measure(SMALL, two_devices(), pathlib.Path(tmp_path), 0.5, told.append)
    assert len(told) == 6
    assert found.constants.compiled_bytes >= found.constants.process_bytes > 1e8
    assert found.constants.num_devices == 2 and found.constants.backend == "cpu"
    # Lengths of photographs and of the world's pictures: 5 to 8 rows of 8 patches.
    assert set(found.constants.batch_seconds) == {48, 64}
    assert found.machine["jax"] == jax.__version__
    path = epath.Path(tmp_path) / "c.json"
    found.save(path)
    assert constants.load(path, SMALL.config) == found
