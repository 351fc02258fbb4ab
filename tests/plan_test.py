"""What a plan says: by formula as computed by hand, and by really running `ilias-jax plan`."""

import errno
import inspect
import json
import pathlib

import jax
import pytest

from ilias_jax import cli
from ilias_jax.commands import plan as command
from ilias_jax.config import WorldConfig, parse
from ilias_jax.embeddings import embedder, shards
from ilias_jax.errors import UserError
from ilias_jax.models.parameters import text_flops
from ilias_jax.plan import predict as plan
from ilias_jax.plan import rates
from ilias_jax.plan.predict import PHOTO_ASPECTS, Rates, Recipe, Sizes, Stage, num_tokens
from ilias_jax.search.scann import part_bytes

# ml_collections loads a recipe in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).parents[1]
DEMO = f"--config={ROOT}/configs/demo.py"
VALUES = {
    "dataset": {"data_dir": "nowhere", "read_threads": 2},
    "model": {"name": "tiny"},
    "embed": {"batch_size_per_device": 32, "num_buckets": 2, "canvas": 0},
    "search": {"k": 100, "block_rows": 1000, "scann": {}},
}
LARGE = {"name": "vit_large_patch16_siglip_384.webli", "resolution": 512}
MINI = Sizes("mini", 40, 10, 50, 9_950, 5)
RATES = Rates(
    num_devices=1,
    num_cpus=4,
    process_bytes=1e8,
    pictures=50.0,
    picture_bytes=10_000.0,
    convert=1e7,
    tokens=1_000.0,
    write=1e8,
    read=2e8,
    exact=[(1_000, 2.0), (20_000, 4.0), (60_000, 5.0)],
    scann=(0.001, 0.01),
    metrics=10.0,
    note="beads",
)
TINY_PARAMETERS = 2_842_882


def recipe_of(**sections: dict) -> Recipe:
    """The tiny model's recipe with other values in some sections."""
    values = {key: {**VALUES.get(key, {}), **sections.get(key, {})} for key in VALUES | sections}
    return plan.read_recipe(parse(values))


def stages_of(sizes: Sizes = MINI, devices: int = 1, network: float = 1e8, **sections: dict):
    stages = plan.predict(recipe_of(**sections), sizes, RATES, devices, network)
    return {stage.name: stage for stage in stages}


def test_mini_and_full_are_the_published_counts_and_the_demo_is_the_recipes_world():
    demo, mini, full = plan.sizes_of(WorldConfig(7, 3, 4, 5, 60, 6))
    assert demo == ("demo", 4, 3, 5, 60, 6) and (demo.rows, demo.images) == (65, 69)
    assert mini == ("mini", 1_232, 1_000, 4_715, 5_000_000, 45)
    assert full == ("full", 1_232, 1_000, 4_715, 100_000_000, 1_000)
    assert plan.sizes_of(None)[0].distractors == 5_000


def test_tokens_of_a_mean_photograph_are_padded_and_of_all_views():
    how = recipe_of(model=LARGE).preprocessing
    shapes = [num_tokens(how, aspect) for aspect in PHOTO_ASPECTS]
    assert shapes == [32 * 32, 32 * 24, 32 * 22, 32 * 18]
    assert num_tokens(how, 4 / 3, 0.5) == 16 * 12
    exact = recipe_of(model=LARGE, embed={"num_buckets": 8})
    assert exact.photo[0] == pytest.approx(0.1 * 1024 + 0.5 * 768 + 0.35 * 704 + 0.05 * 576)
    # configs/siglip_l384.py: about 0.5 TFLOP an image.
    assert exact.photo[1] == pytest.approx(0.52e12, rel=0.03)
    one = recipe_of(model=LARGE, embed={"num_buckets": 1})
    assert one.photo[0] == pytest.approx(1024)
    views = {"scales": (0.5, 1.0), "rotations": (0, 90, 180)}
    both = recipe_of(model=LARGE, embed={"num_buckets": 1}, views=views)
    assert both.photo[0] == pytest.approx(6 * 1024)


def test_the_recipe_counts_the_parameters_of_the_towers_that_run():
    assert recipe_of().num_parameters == TINY_PARAMETERS
    assert recipe_of(model=LARGE).num_parameters == 652_478_466
    alone = recipe_of(model={**LARGE, "towers": "image"})
    assert alone.num_parameters < 350e6 and alone.text is None


def test_pictures_go_on_a_canvas_or_as_patches():
    patches = recipe_of().shapes[-1][0] * 768
    assert recipe_of().view_bytes == patches
    assert recipe_of(embed={"canvas": 200}).view_bytes == 200 * 200 * 3
    assert recipe_of(embed={"canvas": 100}).view_bytes == 128 * 128 * 3  # the resolution
    # Views are cut on the host and are floats; distractors have no boxes to be masked.
    assert recipe_of(embed={"canvas": 200}, views={"scales": (0.5, 1.0)}).view_bytes == 4 * patches
    masked = recipe_of(embed={"canvas": 200}, views={"mask_outside_box": True})
    assert masked.view_bytes == 200 * 200 * 3


def test_download_and_conversion():
    tars = 10_040 * 63_000
    found = stages_of(network=1e6)
    assert found["download"] == ("download", tars, tars, 1e8, 0, tars / 1e6)
    assert stages_of(network=1e12)["download"].seconds == tars / 1e8  # the disk
    # Four processes of 10 MB/s are slower than the disk.
    assert found["convert"] == ("convert", tars, tars, 5e8, 0, tars / 4e7)
    few = MINI._replace(tars=2)
    assert stages_of(few)["convert"].seconds == tars / 2e7
    quick = plan.predict(recipe_of(), MINI, RATES._replace(convert=1e12), 1, 1e8)[1]
    assert quick.seconds == pytest.approx(tars / 2e8 + tars / 1e8)


def test_the_demo_is_drawn_and_not_downloaded():
    found = stages_of(MINI._replace(name="demo"))
    drawn = 10_040 * 10_000
    assert found["generate"] == ("generate", drawn, 2 * drawn, 3e8, 0, 10_040 / 50)
    assert "download" not in found and "convert" not in found
    assert found["embed"].read == drawn


def test_the_time_of_embedding_is_tokens_over_their_rate():
    tokens, flops = recipe_of().photo
    texts = 10 * text_flops(recipe_of().text) / flops  # as so many images
    seconds = stages_of()["embed"].seconds
    assert seconds == pytest.approx((10_040 + texts) * tokens / 1_000)
    assert stages_of(devices=4)["embed"].seconds == pytest.approx(seconds / 4)
    images = stages_of(model={"towers": "image"})["embed"]
    assert images.seconds == pytest.approx(10_040 * tokens / 1_000)
    assert images.written == 10_040 * (192 * 2 + 58)
    assert stages_of()["embed"].written == 10_050 * (192 * 2 + 58)
    assert stages_of(embed={"storage_dtype": "float32"})["embed"].written == 10_050 * (768 + 58)
    slow = plan.predict(recipe_of(), MINI, RATES._replace(read=1e3), 1, 1e8)[2]
    assert slow.seconds == pytest.approx(slow.read / 1e3 + slow.written / 1e8)


def test_memory_of_embedding():
    length, patch = recipe_of().shapes[-1][0], 768
    # 2 threads x 16 images, and batches of 32: one of each of 2 lengths waits, 6 are on their way.
    images = (32 + 32 * (2 + 6)) * length * patch
    vectors = 6 * 4 * 1_990 * 192
    found = stages_of()["embed"]
    assert found.host == 1e8 + 9_950 * 16 + 4 * TINY_PARAMETERS + images + vectors
    assert stages_of(devices=8)["embed"].host - found.host == 7 * 32 * 8 * length * patch
    size = recipe_of().image.size
    hidden = 4 * length * (4 * 192 + 2 * size.mlp_dim) + 4 * size.num_heads * length**2
    assert found.device == 4 * TINY_PARAMETERS + 32 * (2 * length * patch + hidden)
    parted = stages_of(devices=2, mesh={"model_partitions": 2})["embed"]
    assert found.device - parted.device == 4 * TINY_PARAMETERS / 2
    assert parted.host == found.host
    half = stages_of(model={"dtype": "bfloat16"})["embed"]
    assert found.host - half.host == 2 * TINY_PARAMETERS


def test_batches_and_shards_that_are_held_are_those_of_the_embedder():
    assert plan._BATCHES == embedder._IN_FLIGHT + 1 + shards._BATCHES_AHEAD + 1
    assert plan._SHARD_COPIES == 1 + shards._FILES_BEHIND + 3


def test_exact_search_takes_time_by_rows_queries_and_passes():
    found = stages_of()["search exact"]
    # 10,000 rows lie between 1,000 and 20,000.
    assert found.seconds == pytest.approx(50 / 1_232 * (2 + 2 * 9 / 19))
    assert stages_of(devices=2)["search exact"].seconds == pytest.approx(found.seconds / 2)
    assert (found.read, found.written) == (2 * 10_000 * 384, 50 * 100 * 8)
    twice = stages_of(rerank={"query_expansion": 2})["search exact"]
    assert twice.seconds == pytest.approx(2 * found.seconds)
    assert (twice.read, twice.written) == (2 * found.read, found.written)
    alone = stages_of(model={"towers": "image"})["search exact"]
    assert (alone.read, alone.written) == (10_000 * 384, 40 * 100 * 8)
    short = stages_of(MINI._replace(distractors=10))["search exact"]
    assert short.written == 50 * 60 * 8  # no longer than the database
    slow = plan.predict(recipe_of(), MINI, RATES._replace(read=1e3), 1, 1e8)[3]
    assert slow.seconds == slow.read / 1e3


def test_memory_of_exact_search():
    found = stages_of()["search exact"]
    pairs = 2 * 40 * (3 * 100 + 1024)
    assert found.host == 1e8 + 9_950 * 16 + 10_000 * 384 + 8 * pairs
    assert found.device == 40 * 192 * 4 + 2 * 40 * 1000 * 4 + 1000 * 192 * (2 * 2 + 4)
    large = stages_of(MINI._replace(distractors=99_999_950))["search exact"]
    assert large.host == 1e8 + 99_999_950 * 16 + 3 * 2**29 + 8 * pairs
    assert large.device == found.device


def test_seconds_go_on_as_between_the_last_two_searches():
    points = [(1_000, 2.0), (20_000, 4.0), (60_000, 5.0)]
    assert plan.exact_seconds(points, 500) == 2
    assert plan.exact_seconds(points, 10_500) == 3
    assert plan.exact_seconds(points, 140_000) == 5 + 2
    # The larger search seems to take less: its rows' mean then, and never less than nothing.
    assert plan.exact_seconds([(10, 1.0), (40, 0.5)], 80) == pytest.approx(0.5 + 40 * 0.5 / 40)


def test_scann_is_built_in_parts_and_keeps_codes():
    found = stages_of(search={"backend": "scann"})
    assert "search exact" not in found
    index = found["search scann"]
    assert index.seconds == pytest.approx(10_000 * 0.001 + 50 * 0.01)
    assert index.written == 10_000 * 48 + 50 * 100 * 8
    config = recipe_of().config.search.scann
    assert index.host == 1e8 + 9_950 * 16 + part_bytes(config, 10_000, 192)
    both = stages_of(search={"measure_ann_recall": True, "scann": {"soar_lambda": 1.0}})
    assert both["search scann"].written == 10_000 * 96 + 50 * 100 * 8
    assert "search exact" in both
    large = MINI._replace(distractors=99_999_950)
    host = stages_of(large, search={"backend": "scann"})["search scann"].host
    assert 4e9 < host - 1e8 - 99_999_950 * 16 <= 8e9  # memory_gb
    with pytest.raises(UserError, match="search.scann.memory_gb=0.01 is too small"):
        recipe = recipe_of(search={"backend": "scann", "scann": {"memory_gb": 0.01}})
        plan.check_index(recipe, [MINI])


def test_metrics_are_of_all_queries():
    found = stages_of()["metrics"]
    assert found.seconds == pytest.approx(50 / 1_232 * 10)
    assert (found.read, found.device) == (50 * 100 * 8, 40 * 100 * 128)


def test_the_total_adds_bytes_and_seconds_and_takes_the_peak_of_memory():
    stages = [Stage("a", 1, 2, 30, 4, 5), Stage("b", 10, 20, 3, 40, 50)]
    assert plan.total(stages) == ("total", 11, 22, 30, 40, 55)


def test_what_does_not_fit_is_said():
    plans = {"mini": [Stage("embed", 0, 600, 600, 500, 1.0), Stage("metrics", 0, 600, 1, 700, 1.0)]}

    def found(is_host: bool, *room: float) -> list[str]:
        return plan.misfits(plans, is_host, room)

    assert found(False, 1_200, 600, 700) == []
    assert found(False, 1_199, 600, 700) == ["mini does not fit: disk: 1.2 kB of 1.2 kB"]
    assert found(False, 1e9, 599, 700) == ["mini does not fit: host memory: 600 B of 599 B"]
    assert found(False, 1e9, 600, 699) == ["mini does not fit: device memory: 700 B of 699 B"]
    # On a CPU both are one: of the same stage, and not of different ones.
    assert found(True, 1e9, 1_100, 0) == []
    assert found(True, 1e9, 1_099, 0) == ["mini does not fit: host memory: 1.1 kB of 1.1 kB"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.015, "15.0 ms"), (1.3, "1.3 s"), (90, "90.0 s"), (600, "10.0 min"), (7_200, "2.0 h")]
    + [(86_400, "24.0 h"), (1_132_704, "13.1 days"), (8.64e8, "10,000 days")],
)
def test_durations(seconds, expected):
    assert command.format_seconds(seconds) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "error: --config is missing; for example --config configs/demo.py\n"),
        ([DEMO, "--config.serach.k=5"], "serach.k is no key of the config; did you mean search.k?"),
        ([DEMO, "--calibrate_seconds=5"], "calibrate_seconds"),
        ([DEMO, "word"], "unknown arguments: word; flags begin with --"),
        ([DEMO, "--config.model.name=tinny"], "tinny is no model (model.name); did you mean tiny?"),
        ([DEMO, "--config.model.factory=mine.py:build"], "model.factory=mine.py:build: a plan"),
        ([DEMO, "--config.model.attention=cudnn"], "model.attention"),
        ([DEMO, "--config.search.scann.num_leaves=9000"], "num_leaves=9000 exceeds 5450 rows"),
        ([DEMO, "--devices=0"], "--devices 0 must be at least 1"),
        ([DEMO, "--devices=3", "--config.mesh.model_partitions=2"], "--devices 3 must be at least"),
        ([DEMO, "--config.mesh.model_partitions=3"], "mesh.model_partitions=3 must divide the 2"),
        ([DEMO, "--network_mb_s=-1"], "--network_mb_s -1.0 must be above 0"),
        ([DEMO, "--network_mb_s=inf"], "--network_mb_s inf must be above 0"),
        ([DEMO, "--folder=/proc/none"], "folder /proc/none cannot be written"),
        ([DEMO, "--folder=gs://bucket/x"], "--folder gs://bucket/x: name a local one"),
        ([DEMO, "--output=/proc/none/plan.json"], "name another with --output"),
        ([DEMO, f"--output={DEMO.partition('=')[2]}"], "would write over what is read"),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_measured(
    words, expected, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(rates, "measure", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", *words])
    found = capsys.readouterr().err
    assert caught.value.code == 1
    assert found.startswith("error: ") and expected in found


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
            "embed.batch_size_per_device=32 or search.block_rows=2048",
        ),
        (OSError(errno.ENOSPC, "No space"), "folder cannot be written (No space); mend that"),
    ],
)
def test_a_device_or_a_disk_that_is_too_small_is_named(
    monkeypatch, tmp_path, capsys, error, message
):
    def fail(*_):
        raise error

    monkeypatch.setattr(rates, "measure", fail)
    with pytest.raises(SystemExit):
        cli.main(["plan", DEMO, f"--folder={tmp_path / 'folder'}"])
    assert message in capsys.readouterr().err


def test_other_commands_still_refuse_what_they_do_not_know(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["models", "--config.search.k=5"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --config.search.k=5" in capsys.readouterr().err


def test_the_demo_is_planned_by_running_its_stages(tmp_path, capsys, monkeypatch):
    seen = {}

    def spy(name):
        real = getattr(rates, name)

        def call(*arguments, **settings):
            bound = inspect.signature(real).bind(*arguments, **settings)
            seen[name] = bound.arguments
            return real(*arguments, **settings)

        monkeypatch.setattr(rates, name, call)

    for name in ("embed_dataset", "evaluate"):
        spy(name)
    monkeypatch.setattr(rates, "_PICTURES", 20)
    monkeypatch.setattr(rates, "_FILE_BYTES", 2**20)
    monkeypatch.setattr(rates, "_CPU_FLOPS", 8.5 * recipe_of(embed={"num_buckets": 1}).photo[1])
    small = ["embed.num_buckets=1", "search.k=10", "search.block_rows=64", "dataset.read_threads=1"]
    small += ["metrics.num_resamples=40", "search.measure_ann_recall=False"]
    folder, output = tmp_path / "disk", tmp_path / "deep" / "plan.json"
    words = [f"--config.{value}" for value in small]
    cli.main(["plan", DEMO, *words, f"--folder={folder}", f"--output={output}", "--devices=4"])
    printed = capsys.readouterr().out
    made = json.loads(output.read_text())
    assert list(folder.iterdir()) == []
    for part in (
        "demo: 450 positives and 5,000 distractors",
        "search exact",
        "tiny, 2,842,882 parameters",
        "machine: ",
    ):
        assert part in printed, part
    assert "4 devices do 2 times as much as the 2 measured" in printed
    assert "! full does not fit: disk: 12.6 TB" in printed
    assert list(made["plans"]["mini"]) == [
        "download",
        "convert",
        "embed",
        "search exact",
        "metrics",
        "total",
    ]
    # Eight pictures of the world, of which one is a query and one a positive, in batches of one.
    measured = made["rates"]
    assert measured["note"] == "8 pictures of a world, 1 a device at a time"
    embedded, timings = seen["embed_dataset"], seen["embed_dataset"]["timings"]
    assert embedded["config"].embed.batch_size_per_device == 1
    stage = timings.stages["embed_images"]
    assert stage.items == 8 and stage.computed_tokens % 64 == 0
    assert measured["tokens"] == pytest.approx(stage.computed_tokens / stage.steady_s)
    world = timings.stages["generate_world"]
    assert world.items == 20 and measured["pictures"] == pytest.approx(20 / world.steady_s)
    assert [rows for rows, _ in measured["exact"]] == [50, 1_600, 4_800]
    assert len(seen["evaluate"]["ranking"].query_ids) == 1_232
    assert seen["evaluate"]["num_resamples"] == 40
    recipe = recipe_of(embed={"num_buckets": 1})
    images = 5_570 + 100 * text_flops(recipe.text) / recipe.photo[1]
    seconds = images * 64 / measured["tokens"] * 2 / 4
    assert made["plans"]["demo"]["embed"]["seconds"] == pytest.approx(seconds)
