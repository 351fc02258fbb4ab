"""The published table is whole, and its numbers stand beside runs of the same setting alone."""

import copy
import csv
import dataclasses
import re
import shutil

import pytest

from ilias_jax.config import parse
from ilias_jax.errors import UserError
from ilias_jax.files import bundled_folder
from ilias_jax.metrics.published import (
    CAVEATS,
    DATABASE_NAMES,
    compare_with_published,
    load_parity,
    read_published,
)
from ilias_jax.models.registry.registry import VARIANTS

TABLE = read_published()
_LINES = (bundled_folder() / "published" / "scores.csv").read_text().splitlines()
ROWS = list(csv.DictReader(_LINES))
LARGE = "vit_large_patch16_siglip_384.webli"
RESULT = {"map@1000": 20.1, "ci95": [19.0, 21.3]}


def test_all_rows_are_there():
    assert len(TABLE.test_resolutions) == 64
    adapted = [score for score in TABLE.scores if score.adapted]
    assert len(adapted) == 2 * 64
    assert {score.section for score in adapted} == {"image_to_image"}
    raw = [s for s in TABLE.scores if not s.adapted and s.section == "image_to_image"]
    assert [s.databases for s in raw if s.status == "published"] == [("full",)] * 64


def test_rows_hold_no_unknown_word():
    """Such a row would never be found."""
    assert {score.model for score in TABLE.scores} == set(TABLE.test_resolutions)
    assert {score.section for score in TABLE.scores} == {"image_to_image", "text_to_image"}
    assert {name for score in TABLE.scores for name in score.databases} == set(DATABASE_NAMES)
    assert {score.status for score in TABLE.scores} == set(CAVEATS)
    assert {row["adapted"] for row in ROWS} == {"yes", "no"}


def test_a_smaller_database_is_easier():
    """A swapped pair of columns would break the order somewhere."""
    for model in TABLE.test_resolutions:
        for section, adapted in (("image_to_image", True), ("text_to_image", False)):
            mini, full = (TABLE.find(model, section, d, adapted=adapted) for d in ("mini", "full"))
            if mini and full and mini is not full:
                assert mini.map > full.map, (model, section)


@pytest.mark.parametrize(
    ("section", "database", "adapted", "number", "status"),
    [
        ("image_to_image", "mini", True, 34.3, "published"),
        ("image_to_image", "full", True, 28.9, "published"),
        ("image_to_image", "full", False, 19.6, "published"),
        ("image_to_image", "mini", False, 24.2, "secondary"),
        ("text_to_image", "mini", False, 20.9, "published"),
        ("text_to_image", "full", False, 17.0, "published"),
    ],
)
def test_siglip_large_by_setting(section, database, adapted, number, status):
    score = TABLE.find(LARGE, section, database, adapted=adapted)
    assert (score.map, score.status) == (number, status)


def test_the_five_rows_that_lost_a_cell_are_marked():
    unsure = [score for score in TABLE.scores if score.status == "unsure"]
    assert len(unsure) == 5
    assert {score.databases for score in unsure} == {("mini", "full")}
    assert {score.section for score in unsure} == {"text_to_image"}
    assert all(CAVEATS[score.status] for score in unsure)


def test_every_published_siglip_is_a_variant_of_the_same_test_size():
    names = [name for name in TABLE.test_resolutions if "siglip" in name]
    assert len(names) == 6
    for name in names:
        assert TABLE.test_resolutions[name] == VARIANTS[name].test_resolution


def test_what_is_not_published_is_not_found():
    assert TABLE.find("tiny", "image_to_image", "full", adapted=False) is None
    assert TABLE.find("dinov2_vitb14", "text_to_image", "full", adapted=False) is None
    assert TABLE.find("dinov2_vitb14", "image_to_image", "mini", adapted=False) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",mini,yes,34.3", ",mini,yes,high", "could not convert string to float: 'high'"),
        ("model,section,", "model,part,", "KeyError('section')"),
    ],
)
def test_a_damaged_file_is_named_with_its_row(tmp_path, old, new, message):
    folder = tmp_path / "published"
    shutil.copytree(bundled_folder() / "published", folder)
    text = (folder / "scores.csv").read_text()
    assert old in text
    (folder / "scores.csv").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"scores.csv, row \d+: .*" + re.escape(message)):
        read_published(folder)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="models.csv: no such file"):
        read_published(tmp_path)


def test_parity_is_of_models_and_has_numbers():
    table = load_parity()
    assert table[LARGE, "image"].resolution > 0 and table[LARGE, "text"].resolution == 0
    assert {model for model, _ in table} <= set(VARIANTS)
    assert all(0 <= row.error < 1e-3 and row.cosine > 0.999 for row in table.values())


def _run() -> dict:
    """What a run of the published setting on full ILIAS says of itself."""
    config = parse({"dataset": {"data_dir": "d"}, "model": {"name": LARGE}})
    return {
        "config": dataclasses.asdict(config),
        "model": {
            "name": LARGE,
            "checkpoint": "gs://bucket/webli_en_l16_384_63634585.npz",
            "resolution": 512,
            "activation": "gelu_exact",
            "text_cleaning": "canonicalize",
        },
        "dataset": {
            "subset": "full",
            "num_image_queries": 1232,
            "num_text_queries": 1000,
            "num_positives": 4715,
            "num_distractors": 99_999_000,
            "num_rejected": 1_000,
        },
        "results": {"image_to_image": RESULT, "text_to_image": RESULT},
    }


def _compare(changes: dict[str, object]) -> dict:
    """The comparison after values of the run were replaced, given by their dotted paths."""
    run = copy.deepcopy(_run())
    for path, value in changes.items():
        *parents, leaf = path.split("/")
        section = run
        for name in parents:
            section = section.setdefault(name, {})
        section[leaf] = value
    return compare_with_published(
        TABLE, run["config"], run["model"], run["dataset"], run["results"]
    )


def test_both_numbers_and_their_difference():
    image = _compare({})["image_to_image"]
    assert image["comparable"] and image["published"] == 19.6 and image["ours"] == 20.1
    assert image["difference"] == pytest.approx(0.5)
    assert image["difference_ci95"] == pytest.approx([-0.6, 1.7])
    assert image["inside_ci95"] is True and image["caveat"] is None
    text = _compare({})["text_to_image"]
    assert text["published"] == 17.0 and text["inside_ci95"] is False


def test_a_model_of_the_users_own_has_no_published_number_whatever_its_name():
    (reason,) = _compare({"model/factory": "mine:build"})["image_to_image"]["reasons"]
    assert reason == "the model is the user's own, by model.factory=mine:build"


@pytest.mark.parametrize(
    ("path", "comparable"),
    [
        (
            "c/huggingface.co/timm/ViT-L-16-SigLIP-384/resolve/main/open_clip_model.safetensors",
            True,
        ),
        (f"c/huggingface.co/timm/{LARGE}/resolve/main/model.safetensors", True),
        (
            "c/huggingface.co/timm/ViT-L-16-SigLIP-256/resolve/main/open_clip_model.safetensors",
            False,
        ),
        ("model.safetensors", False),
    ],
)
def test_a_hubs_file_is_official_in_the_folder_of_its_model(path, comparable):
    """Its name alone is that of every model."""
    image = _compare({"model/checkpoint": path})["image_to_image"]
    assert image["comparable"] is comparable
    if not comparable:
        assert [f"the weights {path} are not the official file" in r for r in image["reasons"]]


def test_mini_without_adaptation_is_marked_as_secondary():
    image = _compare({"dataset/subset": "mini", "dataset/num_distractors": 4_999_000})[
        "image_to_image"
    ]
    assert (image["published"], image["status"]) == (24.2, "secondary")
    assert image["caveat"] == "quoted elsewhere, not in the published table"


def test_the_official_layer_turns_to_the_adapted_column_for_images_alone():
    compared = _compare({"config/adapter/path": f"layers/{LARGE}.pth"})
    assert compared["image_to_image"]["published"] == 28.9
    assert compared["image_to_image"]["adapted"] is True
    assert compared["text_to_image"]["published"] == 17.0


DIFFERENT = {
    "another model": ({"model/name": "tiny"}, "the published table has no model tiny"),
    "own weights": ({"model/checkpoint": "mine.npz"}, "mine.npz are not the official file webli"),
    "no file": ({"model/checkpoint": None}, "the weights None are not the official file"),
    "resolution": ({"model/resolution": 384}, "resolution 384, published at 512"),
    "activation": ({"model/activation": "gelu_tanh"}, "gelu_tanh, published with gelu_exact"),
    "k": ({"config/search/k": 100}, "search.k=100, published with 1000"),
    "index": ({"config/search/backend": "scann"}, "search.backend=scann, published with exact"),
    "views": (
        {"config/views/scales": (0.707, 1.0, 1.414)},
        "views.scales=(0.707, 1.0, 1.414), published with (1.0,)",
    ),
    "an option": ({"config/rerank/neighbours": 5}, "rerank.neighbours=5, published with None"),
    "queries": ({"dataset/num_image_queries": 1231}, "image queries: 1231, officially 1,232"),
    "positives": ({"dataset/num_positives": 4700}, "positives: 4700, officially 4,715"),
    "distractors": ({"dataset/num_distractors": 98_000_000}, "98,000,000 distractors, published"),
    "not the list": (
        {"dataset/num_distractors": 4_999_000},
        "5,000,000 distractors that the official list of mini did not pick",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_differs_is_named_and_no_number_is_shown(case):
    changes, message = DIFFERENT[case]
    for entry in _compare(changes).values():
        if case == "another model":
            assert len(entry["reasons"]) == 1  # nothing else matters then
        assert not entry["comparable"] and "published" not in entry
        assert [reason for reason in entry["reasons"] if message in reason], entry["reasons"]


def test_an_adapter_of_ones_own_is_not_the_published_one():
    compared = _compare({"config/adapter/path": "mine.safetensors"})
    assert compared["image_to_image"]["reasons"] == [
        f"the adapter mine.safetensors is not the official layer {LARGE}.pth"
    ]
    assert compared["text_to_image"]["comparable"]


def test_other_cleaning_concerns_texts_alone():
    compared = _compare({"model/text_cleaning": "lower"})
    assert compared["image_to_image"]["comparable"]
    assert compared["text_to_image"]["reasons"] == [
        "text cleaning lower, published with canonicalize"
    ]


def test_what_moves_no_score_is_not_held_against_a_run():
    neutral = {
        "config/search/block_rows": 7,
        "config/embed/num_buckets": 3,
        "config/dataset/name": "mine",
    }
    assert _compare(neutral)["image_to_image"]["comparable"]


def test_a_setting_without_a_number_says_so():
    name = "vit_base_patch16_siglip_384.webli"
    compared = _compare(
        {
            "model/name": name,
            "model/checkpoint": "webli_en_b16_384_68578854.npz",
            "dataset/subset": "mini",
            "dataset/num_distractors": 4_999_000,
        }
    )
    assert compared["image_to_image"]["reasons"] == [
        "none is published for mini-ILIAS without linear adaptation"
    ]
    assert compared["text_to_image"]["published"] == 13.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model/text_activation": "gelu_tanh"}, "text activation gelu_tanh, published with gelu_"),
        ({"config/model/text_checkpoint": "t"}, "the text tower is of another file, t"),
    ],
)
def test_another_text_tower_concerns_texts_alone(changes, message):
    compared = _compare(changes)
    assert compared["image_to_image"]["comparable"]
    (reason,) = compared["text_to_image"]["reasons"]
    assert reason.startswith(message)


@pytest.mark.parametrize(
    ("path", "comparable"),
    [("w/dinov2_vitb14_pretrain.pth", True), ("w/dinov2_vitl14_pretrain.pth", False)],
)
def test_the_authors_own_file_is_official_wherever_it_lies(path, comparable):
    changes = {
        "model/name": "dinov2_vitb14",
        "model/resolution": 724,
        "model/checkpoint": path,
        "dataset/subset": "full",
        "dataset/num_distractors": 100_000_000,
        "dataset/num_rejected": 0,
    }
    assert _compare(changes)["image_to_image"]["comparable"] == comparable
