"""Recipes and their validation."""

import dataclasses
import pathlib
import runpy
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from ilias_jax.config import BenchmarkConfig, ViewsConfig, parse
from ilias_jax.errors import UserError
from ilias_jax.models.registry.registry import VARIANTS

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def _demo() -> dict:
    return runpy.run_path(str(CONFIGS / "demo.py"))["get_config"]().to_dict()


def test_recipes_parse():
    assert parse(_demo()).dataset.world.num_distractors == 5000
    siglip = runpy.run_path(str(CONFIGS / "siglip_l384.py"))["get_config"]
    assert parse(siglip().to_dict()).dataset.subset == "full"
    mini = parse(siglip("mini").to_dict())
    assert mini.dataset.subset == "mini"
    assert mini.model.resolution == 512


@pytest.mark.parametrize("name", VARIANTS)
def test_one_recipe_runs_any_model(name):
    get_config = runpy.run_path(str(CONFIGS / "model.py"))["get_config"]
    model = parse(get_config(name).to_dict()).model
    assert (model.name, model.activation, model.checkpoint) == (name, "reference", "")


def test_a_seed_picks_another_world():
    get_config = runpy.run_path(str(CONFIGS / "demo.py"))["get_config"]
    config = parse(get_config("8").to_dict())
    assert config.dataset.world.seed == 8
    assert config.dataset.data_dir == "runs/worlds/8"
    with pytest.raises(ValueError, match="demo.py:x: .* a world's seed"):
        get_config("x")


def test_defaults_fill_what_a_recipe_leaves_out():
    config = parse({"dataset": {"data_dir": "d"}, "model": {"name": "tiny"}})
    assert isinstance(config, BenchmarkConfig)
    assert config.search.k == 1000
    assert config.dataset.world is None


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("search", "kk", 5, r"search.kk is no key .* did you mean search.k\?"),
        ("search", "k", 0, "search.k=0 is not allowed; it must be >= 1"),
        ("search", "k", "many", "search.k='many' is str, not int"),
        ("search", "k", True, "search.k=True is bool, not int"),
        ("search", "filter", "fp8", "search.filter='fp8' .* one of 'auto', 'float32', 'bfloat16'"),
        (
            "search",
            "scann",
            {"leaves": 3},
            r"search.scann.leaves is no key .* mean search.scann.num_leaves",
        ),
        ("search", "scann", {"memory_gb": 0}, "search.scann.memory_gb=0.0 .* > 0 and finite"),
        ("search", "scann", {"reorder": -1}, "search.scann.reorder=-1 .* >= 0"),
        ("search", "scann", {"soar_lambda": -0.5}, "search.scann.soar_lambda=-0.5 .* >= 0"),
        ("search", "scann", {"overretrieve_factor": 0.5}, "overretrieve_factor=0.5 .* >= 1"),
        ("search", "scann", {"training_sample_size": 0}, "training_sample_size=0 .* >= 1"),
        ("search", "scann", {"anisotropic_threshold": 2}, "anisotropic_threshold=2.0 .* in .0, 1"),
        ("search", "scann", 7, "search.scann=7 must be a section"),
        ("dataset", "subset", "half", "dataset.subset='half' .* one of 'full', 'mini'"),
        ("dataset", "data_dir", "", "dataset.data_dir='' .* a folder"),
        (
            "dataset",
            "allow",
            "missing_distractors, all",
            "dataset.allow='all' is not allowed; it must be among missing_distractors, extra_d",
        ),
        ("dataset", "read_threads", 0, "dataset.read_threads=0 .* >= 1"),
        ("embed", "batch_size_per_device", 0, "embed.batch_size_per_device=0 .* in .1, 1048576"),
        ("dataset", "name", "a\x1b]0;x", r"dataset.name='a\\x1b.* printable"),
        ("embed", "storage_dtype", "int8", "embed.storage_dtype='int8' .* 'float16', 'float32'"),
        ("mesh", "model_partitions", 0, "mesh.model_partitions=0 .* >= 1"),
        ("rerank", "query_expansion", -1, "rerank.query_expansion=-1 .* >= 0"),
        ("rerank", "query_expansion", 1001, "rerank.query_expansion=1001 .* <= search.k=1000"),
        (
            "rerank",
            "query_expansion_weights",
            "before_adapter",
            "'before_adapter' .* 'after_adapter' without rerank.query_expansion and adapter.path",
        ),
        ("rerank", "query_expansion_alpha", -0.5, "query_expansion_alpha=-0.5 .* >= 0 and finite"),
        ("rerank", "query_expansion_alpha", float("inf"), "alpha=inf .* >= 0 and finite"),
        ("rerank", "query_expansion_alpha", float("nan"), "alpha=nan .* >= 0 and finite"),
        ("rerank", "shortlist", 0, "rerank.shortlist=0 .* >= 1"),
        ("rerank", "resolution", -1, "rerank.resolution=-1 .* >= 0"),
        ("rerank", "similarity_weight", 1.5, r"rerank.similarity_weight=1.5 .* in \[0, 1\], or -1"),
        ("rerank", "similarity_weight", -0.5, r"rerank.similarity_weight=-0.5 .* in \[0, 1\]"),
        ("rerank", "temperature", float("nan"), "rerank.temperature=nan .* >= 0 and finite"),
        ("rerank", "database_averaging", 2, "rerank.database_averaging is no key of the config"),
        ("adapter", "path", 3, "adapter.path=3 is int, not str"),
        ("metrics", "num_resamples", 10, "metrics.num_resamples=10 .* >= 40"),
        ("metrics", "seed", -1, r"metrics.seed=-1 .* in \[0, 2\*\*32\)"),
        ("model", "resolution", -1, "model.resolution=-1 .* >= 0"),
        ("views", "scales", (), r"views.scales=\(\) .* numbers in \(0, 4\], each once"),
        ("views", "scales", (1.0, 1.0), r"views.scales=\(1.0, 1.0\) .* each once"),
        ("views", "scales", (0.0,), r"views.scales=\(0.0,\) is not allowed"),
        ("views", "scales", 1.0, "views.scales=1.0 is float, not a list of values"),
        ("views", "scales", "0.7,1", "views.scales='0.7,1' is str, not a list of values"),
        ("views", "scales", ("a",), r"views.scales\[0\]='a' is str, not float"),
        ("views", "rotations", (0, 45), r"views.rotations=\(0, 45\) .* some of 0, 90, 180, 270"),
        ("views", "rotations", (90.5,), r"views.rotations\[0\]=90.5 is float, not int"),
        ("views", "boxes_of", "positive", "views.boxes_of='positive' .* 'core', 'image_query'"),
        ("model", "weights", "gguf", "model.weights='gguf' .* 'open_clip', 'timm', 'torch'"),
        ("model", "towers", "none", "model.towers='none' .* 'both', 'image'"),
        ("model", "activation", "relu", "model.activation='relu' .* 'reference', 'native', 'gelu"),
        (
            "model",
            "dtype",
            "int8",
            "model.dtype='int8' .* 'auto', 'float32', 'float16', 'bfloat16'",
        ),
        ("model", "factory", 3, "model.factory=3 is int, not str"),
        ("model", "factory_args", "a=1", "model.factory_args='a=1' must be a section with keys"),
        (
            "model",
            "factory_args",
            {"a": 1},
            "model.factory_args={'a': 1} .* empty without model.fa",
        ),
        (
            "model",
            "factory_args",
            {"a": {"b": {3}}},
            r"factory_args.a.b=\{3\} is set, not plain data",
        ),
        (
            "model",
            "factory_args",
            {"a": [1, {}, int]},
            r"factory_args.a\[2\]=.* is type, not plain",
        ),
        ("model", "factory_args", {"a": {1: 2}}, "factory_args.a=1 .* section whose keys are text"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(section, key, value, message):
    values = _demo()
    values.setdefault(section, {})[key] = value
    with pytest.raises(UserError, match=message):
        parse(values)


def test_a_missing_section_and_an_unknown_one_are_named():
    values = _demo()
    with pytest.raises(UserError, match="the config has no section model"):
        parse({key: value for key, value in values.items() if key != "model"})
    with pytest.raises(UserError, match="serach is no key .* did you mean search"):
        parse({**values, "serach": {}})


def test_lists_and_tuples_of_numbers_are_values():
    values = _demo()
    values["views"].update(scales=[0.707, 1, 1.414], rotations=(0, 90))
    views = parse(values).views
    assert views.scales == (0.707, 1.0, 1.414) and views.rotations == (0, 90)
    assert all(isinstance(scale, float) for scale in views.scales)
    assert (views.num_views, views.max_scale) == (6, 1.414)
    assert ViewsConfig(scales=(0.5,)).max_scale == 1.0


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("words", ["0.707,1,1.414", "(0.707, 1, 1.414)", "[0.707,1,1.414]"])
def test_scales_are_set_on_the_command_line(monkeypatch, words):
    argv = ["main.py", f"--config={CONFIGS}/demo.py", f"--config.views.scales={words}"]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for overrides
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(argv)
    assert parse(values["config"].value.to_dict()).views.scales == (0.707, 1.0, 1.414)


def test_box_options_reach_the_splits_that_have_boxes():
    both = ViewsConfig(crop_to_box=True, mask_outside_box=True, scales=(0.5,))
    assert both.of("image_query") == both.of("positive") == both
    assert both.of("distractor") == ViewsConfig(scales=(0.5,))
    queries = dataclasses.replace(both, boxes_of="image_query")
    assert queries.of("image_query") == both
    assert queries.of("positive") == queries.of("distractor") == ViewsConfig(scales=(0.5,))


def test_arguments_of_a_factory_are_any_plain_data():
    given = {"width": 8, "rate": 0.5, "image": {"variant": "B/16", "scan": True}, "dims": [None, 4]}
    model = parse(
        {"dataset": {"data_dir": "d"}, "model": {"factory": "a:b", "factory_args": given}}
    ).model
    assert model.factory_args == {**given, "dims": (None, 4)}
    assert parse({"dataset": {"data_dir": "d"}, "model": {"name": "tiny"}}).model.factory_args == {}


def test_whole_numbers_pass_for_real_ones():
    values = _demo()
    values["search"]["scann"]["anisotropic_threshold"] = 1
    assert parse(values).search.scann.anisotropic_threshold == 1.0


def test_allowances_are_a_list_of_names():
    dataset = {"data_dir": "d", "allow": " missing_distractors,extra_distractors, "}
    config = parse({"dataset": dataset, "model": {"name": "tiny"}})
    assert config.dataset.allowed == ["missing_distractors", "extra_distractors"]
    assert parse(_demo()).dataset.allowed == []


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("dataset", "data_dir"),
        *[("model", key) for key in ("checkpoint", "text_checkpoint", "tokenizer", "factory")],
        ("adapter", "path"),
    ],
)
def test_paths_know_the_home_directory(monkeypatch, section, key):
    monkeypatch.setenv("HOME", "/home/me")
    values = {"dataset": {"data_dir": "d"}, "model": {}}
    for given, expected in (("~/a", "/home/me/a"), ("gs://b/~", "gs://b/~"), ("a/~", "a/~")):
        found = parse({**values, section: {key: given}})
        assert getattr(getattr(found, section), key) == expected
    for wrong in (" ", "~no/such/user", "a\0b"):
        with pytest.raises(UserError, match=rf"^{section}\.{key}: '"):
            parse({**values, section: {key: wrong}})


def test_lists_have_a_largest_length():
    values = {"dataset": {"data_dir": "d"}, "model": {}}
    assert parse({**values, "search": {"k": 10_000}}).search.k == 10_000
    with pytest.raises(UserError, match="search.k=10001 is not allowed; it must be .* <= 10,000"):
        parse({**values, "search": {"k": 10_001}})
