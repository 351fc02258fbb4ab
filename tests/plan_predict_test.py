"""Predictions against numbers computed by hand."""

import dataclasses
import math

import plan_case as case
import pytest

from ilias_jax.errors import UserError
from ilias_jax.plan import memory, predict, scann_work
from ilias_jax.plan.constants import SearchCost
from ilias_jax.plan.flops import text_flops
from ilias_jax.plan.recipe import read_recipe
from ilias_jax.plan.sizes import sizes_of
from ilias_jax.plan.stages import Assumptions, total
from ilias_jax.search.scann_plan import part_bytes

ONE = Assumptions(1)
DEMO, MINI, FULL = sizes_of(None)


def by_name(stages):
    return {stage.name.strip(): stage for stage in stages}


def test_embeddings_of_full_ilias_take_what_the_recipe_says():
    recipe = case.make_recipe(model={"name": "vit_large_patch16_siglip_384.webli"})
    assert recipe.dim == 1024
    # 100,004,715 rows of 1,024 float16; configs/siglip_l384.py says 205 GB.
    assert memory.database_bytes(recipe, FULL) == 100_004_715 * 2048
    # Queries and texts too, and 8 bytes of number and 50 of id each.
    rows = 100_004_715 + 1_232 + 1_000
    assert memory.embedding_bytes(recipe, FULL) == rows * (2048 + 58)
    wide = case.make_recipe(
        model={"name": "vit_large_patch16_siglip_384.webli"}, embed={"storage_dtype": "float32"}
    )
    assert memory.database_bytes(wide, FULL) == 100_004_715 * 4096


def test_a_ranking_keeps_an_index_and_a_score_for_each_entry():
    recipe = case.make_recipe(search={"k": 1000})
    assert memory.ranking_bytes(recipe, MINI) == 2_232 * 1000 * 8
    short = dataclasses.replace(case.SIZES, num_positives=20, num_distractors=40)
    assert memory.ranking_bytes(recipe, short) == 50 * 60 * 8  # no longer than the database


def test_counts_take_a_value_of_each_kind_for_every_pair():
    # 50 queries with 5 positives each, five values of 4 bytes.
    assert memory.count_bytes(case.SIZES) == 50 * 5 * 20


def test_memory_of_the_embedding_step():
    recipe, patch = case.make_recipe(embed={"canvas": 0}), 16 * 16 * 3
    # 2 threads x 16 images of 64 tokens, 32 images of each length waiting, 6 batches on the way.
    patches = (2 * 16 * 64 + 32 * (48 + 64) + 6 * 32 * 64) * patch
    shards = 6 * 4 * 1_990 * 192
    listed = 9_950 * 16
    parameters = 4 * 2_842_882
    assert memory.embed_host(recipe, case.SIZES, 1) == parameters + patches + shards + listed
    assert memory.embed_device(recipe, 1e6) == parameters + 2 * 32 * 64 * patch + 1e6
    # Eight devices have eight times the batch on the host, and the same on each device.
    more = 7 * 32 * (48 + 64 + 6 * 64) * patch
    assert memory.embed_host(recipe, case.SIZES, 8) - more == memory.embed_host(
        recipe, case.SIZES, 1
    )
    # On a canvas every image takes the same, whatever its length.
    picture = 200 * 200 * 3
    pictures = (2 * 16 + 32 * 2 + 6 * 32) * picture
    recipe = case.make_recipe(embed={"canvas": 200})
    assert memory.embed_host(recipe, case.SIZES, 1) == parameters + pictures + shards + listed
    assert memory.embed_device(recipe, 1e6) == parameters + 2 * 32 * picture + 1e6


def test_every_stage_has_its_process_and_workers_have_theirs():
    stages = by_name(predict.predict(case.RECIPE, case.SIZES, case.CONSTANTS, ONE))
    assert stages["download"].host == 1e8
    assert stages["convert"].host == 1e8 * (1 + 4)  # a process for every core
    assert stages["embed"].host == 2e8 + memory.embed_host(case.RECIPE, case.SIZES, 1)
    assert stages["search exact"].host == 2e8 + memory.search_host(case.RECIPE, case.SIZES)
    assert stages["search scann"].host == 2e8 + memory.scann_host(case.RECIPE, case.SIZES)
    assert stages["metrics"].host == 2e8 + memory.ranking_bytes(case.RECIPE, case.SIZES)


def test_parameters_are_shared_out_over_the_model_axis():
    recipe = case.make_recipe(mesh={"model_partitions": 2})
    difference = memory.embed_device(case.RECIPE, 0) - memory.embed_device(recipe, 0)
    assert difference == 4 * 2_842_882 / 2


def test_memory_of_the_search():
    row, block = 192, 1000
    queries, scores = 40 * row * 4, 40 * block * 4
    blocks = block * row * (2 * 2 + 4)
    assert memory.search_device(case.RECIPE, case.SIZES) == queries + blocks + 2 * scores
    pairs = 2 * 40 * (3 * 100 + 1024)
    host = 10_000 * row * 2 + 8 * pairs + 9_950 * 16
    assert memory.search_host(case.RECIPE, case.SIZES) == host


def test_memory_of_search_does_not_grow_with_the_database_but_for_ids():
    large = dataclasses.replace(case.SIZES, num_distractors=9_999_950, num_tars=500)
    larger = dataclasses.replace(case.SIZES, num_distractors=99_999_950, num_tars=500)
    assert memory.search_device(case.RECIPE, larger) == memory.search_device(case.RECIPE, large)
    grown = memory.search_host(case.RECIPE, larger) - memory.search_host(case.RECIPE, large)
    assert grown == 90_000_000 * 16


def test_scann_holds_all_rows_and_its_codes():
    # 96 blocks of two channels, 4 bits each, and the number of the row.
    assert memory.index_bytes(case.RECIPE, case.SIZES) == 10_000 * (48 + 4)
    found = memory.scann_host(case.RECIPE, case.SIZES)
    assert found == part_bytes(case.RECIPE.config.search.scann, 10_000, 192) + 9_950 * 16


def test_memory_of_scann_keeps_to_its_budget():
    larger = dataclasses.replace(case.SIZES, num_distractors=9_999_950, num_tars=500)
    found = memory.scann_host(case.RECIPE, larger) - memory.listed_bytes(larger)
    budget = case.RECIPE.config.search.scann.memory_gb * 1e9
    assert budget / 2 < found <= budget


def test_download_waits_for_the_slower_of_network_and_disk():
    stage = predict.fetch(case.SIZES, case.CONSTANTS, Assumptions(1, network=1e6), 2)
    count = (40 + 50 + 9_950) * 1_000
    assert (stage.read, stage.written, stage.disk) == (count, count, count)
    assert stage.seconds == count / 1e6
    fast = predict.fetch(case.SIZES, case.CONSTANTS, Assumptions(1, network=1e12), 2)
    assert fast.seconds == count / 1e8


def test_the_demos_pictures_are_drawn_and_not_downloaded():
    stage = predict.fetch(DEMO, case.CONSTANTS, ONE, 2)
    assert (stage.name, stage.read, stage.written) == ("generate", 0, 5_570 * 10_000)
    assert stage.seconds == 5_570 / (50 * 2)
    many = predict.fetch(DEMO, case.CONSTANTS, ONE, 16)  # on four cores
    assert many.seconds == 5_570 / (50 * 4)


def test_conversion_is_bound_by_processes_or_by_the_disk():
    count = 10_040_000
    stage = predict.convert(case.SIZES, case.CONSTANTS)
    assert stage.seconds == pytest.approx(count / (4 * 1e7))
    slow = predict.convert(case.SIZES, case.with_constants(disk_write=1e6))
    assert slow.seconds == pytest.approx(count / 2e8 + count / 1e6)
    (one,) = [predict.convert(dataclasses.replace(case.SIZES, num_tars=1), case.CONSTANTS)]
    assert one.seconds == pytest.approx(count / 1e7)


def embed_seconds(device_count=1, **values):
    constants = case.with_constants(**values)
    return predict.embed(case.RECIPE, case.SIZES, constants, Assumptions(device_count)).seconds


def test_embedding_adds_batches_and_texts_up():
    # Photographs: 90 % take 48 tokens and 10 % take 64. Of 10,040 images that is 9,036 and 1,004.
    batches = 283 * 0.5 + 32 * 1.0
    texts = 10 * text_flops(case.RECIPE.architecture.text) / 1e9
    device = predict.embed_device_seconds(case.RECIPE, case.SIZES, case.CONSTANTS, ONE)
    assert device == pytest.approx(batches + texts)
    assert embed_seconds() == pytest.approx(batches + texts + 10_040 / 100.0)


def test_an_accelerator_works_while_the_host_prepares():
    device = predict.embed_device_seconds(case.RECIPE, case.SIZES, case.CONSTANTS, ONE)
    assert embed_seconds(backend="gpu", photo_reads=1e6) == pytest.approx(device)
    assert embed_seconds(backend="gpu", photo_reads=1.0) == pytest.approx(10_040.0)
    assert embed_seconds(backend="gpu", photo_reads=1e6, disk_read=1e4) > 1_004


def test_more_devices_take_larger_batches_in_the_same_time():
    eight = predict.embed_device_seconds(case.RECIPE, case.SIZES, case.CONSTANTS, Assumptions(8))
    batches = 36 * 0.5 + 4 * 1.0  # of 256 images
    texts = 10 * text_flops(case.RECIPE.architecture.text) / 8e9
    assert eight == pytest.approx(batches + texts)


def test_views_are_images_too():
    recipe = case.make_recipe(views={"rotations": (0, 90, 180, 270)})
    one = predict.embed_device_seconds(case.RECIPE, MINI, case.CONSTANTS, ONE)
    four = predict.embed_device_seconds(recipe, MINI, case.CONSTANTS, ONE)
    assert four == pytest.approx(4 * one, rel=1e-3)


def test_exact_search_is_two_passes_over_padded_blocks():
    ranking, score_only = predict.search(case.RECIPE, case.SIZES, case.CONSTANTS, ONE)
    expected = 2 * 0.25 + 10_000 * (2e-6 + 1e-7 * 50)
    assert ranking.seconds == pytest.approx(expected)
    assert ranking.read == 2 * 10_000 * 192 * 2
    assert ranking.written == 50 * 100 * 8
    # Bound by the disk: the product itself would take 5.5 ms.
    assert score_only.seconds == pytest.approx(2 * 10_000 * 384 / 2e8)
    quick = case.with_constants(disk_read=1e12)
    _, score_only = predict.search(case.RECIPE, case.SIZES, quick, ONE)
    assert score_only.seconds == pytest.approx(1.3 * 10_000 * 50 * 1e-8)
    more = dataclasses.replace(case.SIZES, num_distractors=9_951)  # one row more, one block more
    longer, _ = predict.search(case.RECIPE, more, case.CONSTANTS, ONE)
    assert longer.seconds == pytest.approx(0.5 + 11_000 * (2e-6 + 5e-6))


def test_devices_share_the_pairs_but_not_the_rows():
    two = Assumptions(2)
    ranking, _ = predict.search(case.RECIPE, case.SIZES, case.CONSTANTS, two)
    assert ranking.seconds == pytest.approx(0.5 + 10_000 * (2e-6 + 5e-6 / 2))


def test_query_expansion_searches_again():
    recipe = case.make_recipe(rerank={"query_expansion": 5})
    once = predict.search(case.RECIPE, case.SIZES, case.CONSTANTS, ONE)
    twice = predict.search(recipe, case.SIZES, case.CONSTANTS, ONE)
    for one, two in zip(once, twice, strict=True):
        assert two.seconds == pytest.approx(2 * one.seconds)


def test_scann_grows_as_its_products_do():
    # 100 leaves, of which 34 are visited; 12 passes of k-means over all rows.
    assert scann_work.num_leaves(case.RECIPE, 10_000) == (100, 34)
    assert scann_work.build_work(case.RECIPE, 10_000) == 13 * 10_000 * 100 * 192
    per_query = (100 + 10_000 * 34 / 100 / 2 + 200 + 100) * 192
    assert scann_work.search_work(case.RECIPE, 10_000) == pytest.approx(per_query)
    stage = predict.scann(case.RECIPE, case.SIZES, case.CONSTANTS)
    expected = 13e6 * 192 * 1e-9 + 50 * per_query * 1e-8
    assert stage.seconds == pytest.approx(expected)
    # Training takes 250,000 rows at most.
    million = scann_work.build_work(case.RECIPE, 1_000_000)
    assert million == (12 * 250_000 + 1_000_000) * 1_000 * 192


def test_metrics_are_a_section_for_each_kind_of_query():
    stage = predict.metrics(case.RECIPE, case.SIZES, case.CONSTANTS)
    assert stage.seconds == pytest.approx(2 * 0.1 + 50 * 0.001)


@pytest.mark.parametrize(
    ("search", "in_run"),
    [
        ({"backend": "exact"}, {"search exact"}),
        ({"backend": "scann"}, {"search scann"}),
        ({"measure_ann_recall": True}, {"search exact", "search scann"}),
    ],
)
def test_the_total_is_of_the_stages_that_run(search, in_run):
    recipe = case.make_recipe(search=search)
    stages = predict.predict(recipe, case.SIZES, case.CONSTANTS, ONE)
    names = by_name(stages)
    assert {name for name in names if name.startswith("search") and names[name].in_run} == in_run
    assert not names["score only"].in_run
    run = [stage for stage in stages if stage.in_run]
    whole = total(stages)
    for field in ("read", "written", "disk", "seconds"):
        assert getattr(whole, field) == pytest.approx(sum(getattr(s, field) for s in run))
    for field in ("host", "device"):
        assert getattr(whole, field) == max(getattr(s, field) for s in run)


def test_all_values_are_finite_for_every_database():
    for sizes in sizes_of(None):
        for stage in predict.predict(case.RECIPE, sizes, case.CONSTANTS, ONE):
            numbers = [v for v in dataclasses.astuple(stage) if not isinstance(v, str)]
            assert all(math.isfinite(number) and number >= 0 for number in numbers), stage


def test_a_search_costs_a_little_for_itself_and_the_rest_for_rows():
    cost = SearchCost(1.0, 2.0, 3.0)
    assert cost.seconds(10, 5) == 1 + 10 * (2 + 15)
    assert cost.seconds(10, 5, speedup=3) == 1 + 10 * (2 + 5)


@pytest.mark.parametrize(
    ("devices", "partitions", "message"),
    [
        (0, 1, "--devices 0 must be at least 1"),
        (-3, 1, "--devices -3 must be at least 1"),
        (6, 4, "--devices 6 must be a multiple of mesh.model_partitions=4"),
    ],
)
def test_a_number_of_devices_that_no_run_can_have_is_refused(devices, partitions, message):
    recipe = case.make_recipe(mesh={"model_partitions": partitions})
    with pytest.raises(UserError, match=message):
        predict.predict(recipe, case.SIZES, case.CONSTANTS, Assumptions(devices))


def test_a_model_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"tinny is no model \(model.name\); did you mean tiny\?"):
        case.make_recipe(model={"name": "tinny"})


def test_a_model_of_the_users_own_is_refused():
    with pytest.raises(
        UserError, match="model.factory=mine.py:build: a plan counts .* none of oth"
    ):
        case.make_recipe(model={"factory": "mine.py:build"})


def test_the_recipe_counts_parameters_and_takes_the_models_own_resolution():
    large = case.make_recipe(model={"name": "vit_large_patch16_siglip_384.webli"})
    assert large.num_parameters == 652_478_466
    assert large.preprocessing.resolution == 512
    assert read_recipe(large.config) == large
    other = case.make_recipe(model={"resolution": 96})
    assert other.preprocessing.resolution == 96


def test_patches_of_views_are_floats():
    assert case.RECIPE.patch_bytes == 768
    assert case.make_recipe(views={"scales": (0.5, 1.0)}).patch_bytes == 4 * 768
    # Distractors have no boxes: their pixels stay as they are.
    assert case.make_recipe(views={"mask_outside_box": True}).patch_bytes == 768


def test_pictures_go_on_a_canvas_that_those_resized_on_the_host_fit_too():
    assert case.RECIPE.canvas == 512
    assert case.make_recipe(embed={"canvas": 0}).canvas == 0
    assert case.make_recipe(embed={"canvas": 100}).canvas == 128  # the model's resolution
    assert case.make_recipe(views={"scales": (0.5, 1.0)}).canvas == 0  # views are cut on the host
    assert case.make_recipe(views={"mask_outside_box": True}).canvas == 512
