"""A published number stands beside a run of the same setting, and beside no other."""

import copy
import dataclasses

import pytest

from ilias_jax.config import parse
from ilias_jax.published import read_published
from ilias_jax.standing import compare_with_published

TABLE = read_published()
NAME = "vit_large_patch16_siglip_384.webli"
RESULT = {"map@1000": 20.1, "ci95": [19.0, 21.3]}


def _run() -> dict:
    """What a run of the published setting on full ILIAS says of itself."""
    config = parse({"dataset": {"data_dir": "d"}, "model": {"name": NAME}})
    return {
        "config": dataclasses.asdict(config),
        "model": {
            "name": NAME,
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
        (f"c/huggingface.co/timm/{NAME}/resolve/main/model.safetensors", True),
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
    compared = _compare({"config/adapter/path": f"layers/{NAME}.pth"})
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
        f"the adapter mine.safetensors is not the official layer {NAME}.pth"
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
        "config/rerank/database_averaging_gib": 64.0,
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
