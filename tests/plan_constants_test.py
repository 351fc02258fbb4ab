"""The file of constants: whole, of this configuration, or refused by name."""

import json

import plan_case as case
import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.plan import constants


@pytest.fixture
def path(tmp_path) -> epath.Path:
    file = epath.Path(tmp_path) / "constants.json"
    case.make_calibration().save(file)
    return file


def test_a_file_comes_back_as_it_was_saved(path):
    assert constants.load(path, case.RECIPE.config) == case.make_calibration()
    document = json.loads(path.read_text())
    assert document["machine"] == {"platform": "abacus", "devices": "1 x cpu", "jax": "0.10.2"}


def test_what_no_measurement_depends_on_may_differ(path):
    config = case.make_recipe(
        dataset={"data_dir": "elsewhere"}, metrics={"seed": 5}, search={"backend": "scann"}
    ).config
    assert constants.load(path, config).constants == case.CONSTANTS


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            "model",
            {"name": "vit_base_patch16_siglip_224.webli"},
            "model.name: measured with 'tiny', asked for 'vit_base_patch16_siglip_224.webli'",
        ),
        ("search", {"k": 7}, "search.k: measured with 100, asked for 7"),
        ("embed", {"num_buckets": 3}, "embed.num_buckets: measured with 2, asked for 3"),
        ("views", {"rotations": (0, 90)}, "views.rotations: measured with [0], asked for [0, 90]"),
    ],
)
def test_constants_of_another_configuration_are_refused(path, section, values, message):
    with pytest.raises(UserError) as caught:
        constants.load(path, case.make_recipe(**{section: values}).config)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--constants {path} was measured with another model or")
    assert "Measure again with --save_constants" in str(caught.value)


def test_all_differences_are_named_at_once(path):
    with pytest.raises(UserError) as caught:
        constants.load(path, case.make_recipe(search={"k": 7, "block_rows": 8}).config)
    assert "search.k:" in str(caught.value) and "search.block_rows:" in str(caught.value)


def damage(document: dict, place: str, value: object) -> None:
    *parents, leaf = place.split(".")
    for key in parents:
        document = document[key]
    if value is None:
        del document[leaf]
    else:
        document[leaf] = value


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("format", "ilias-jax embeddings 1", "its format is 'ilias-jax embeddings 1'"),
        ("constants.photo_reads", None, "'photo_reads'"),
        ("constants.photo_reads", 0, "photo_reads is 0"),
        ("constants.photo_reads", float("nan"), "photo_reads is nan"),
        ("constants.disk_read", "fast", "disk_read is 'fast'"),
        ("constants.batch_seconds", {}, "batch_seconds is empty"),
        ("constants.batch_seconds", {"48": -1}, "batch_seconds[48] is -1"),
        ("constants.search.pair", -1e-9, "search.pair is -1e-09"),
        ("constants.search", [1], "list indices"),
        ("config", None, "'config'"),
    ],
)
def test_a_damaged_file_is_refused(path, place, value, reason):
    document = json.loads(path.read_text())
    damage(document, place, value)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError) as caught:
        constants.load(path, case.RECIPE.config)
    assert f"--constants {path} is no file of --save_constants, or a damaged one" in str(
        caught.value
    )
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"format": 3}'])
def test_what_is_no_such_file_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(UserError, match="is no file of --save_constants, or a damaged one"):
        constants.load(path, case.RECIPE.config)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--constants .*nowhere.json cannot be read"):
        constants.load(epath.Path(tmp_path) / "nowhere.json", case.RECIPE.config)
