"""Where a model's files are looked for, and what is said of those that are not there."""

import pathlib

import pytest
import tiny_tokenizer

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.models.hub import cached_path
from ilias_jax.models.registry.entry import PublishedFile, ResolvedModel, WantedFile
from ilias_jax.models.registry.registry import VARIANTS, find_variant, resolve_row, wanted_files

BASE = "vit_base_patch16_siglip_384.webli"
NAFLEX = "naflexvit_base_patch16_siglip.v2_webli"
CURL = "curl --create-dirs -Lo"


def find_files(config: ModelConfig, bring=None) -> ResolvedModel:
    return resolve_row(config, bring=bring)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("ILIAS_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def error_of(config: ModelConfig, bring=None) -> str:
    with pytest.raises(UserError) as error:
        find_files(config, bring)
    return str(error.value)


def fill(cache: pathlib.Path, config: ModelConfig) -> list[pathlib.Path]:
    """Puts something at the place of every file of a model."""
    paths = [pathlib.Path(file.path) for file in wanted_files(config, find_variant(config.name))]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def test_an_unknown_model_gets_a_suggestion():
    message = error_of(ModelConfig(name="vit_base_patch16_siglip_383.webli"))
    assert message.startswith("vit_base_patch16_siglip_383.webli is no model (model.name); ")
    assert f"did you mean {BASE}?" in message
    assert all(name in message for name in VARIANTS)


def test_no_name_at_all_lists_the_models():
    assert "'' is no model (model.name)" in error_of(ModelConfig())


def test_missing_files_are_both_named_with_the_command_that_brings_them(tmp_path):
    checkpoint, tokenizer = tmp_path / "a" / "b.npz", tmp_path / "t.model"
    config = ModelConfig(name=BASE, checkpoint=str(checkpoint), tokenizer=str(tokenizer))
    row = VARIANTS[BASE]
    first, second = error_of(config).splitlines()
    assert first == (
        f"model.checkpoint: {checkpoint} does not exist. Get it: "
        f"{CURL} {checkpoint} {row.files['big_vision'].url}"
    )
    assert second == (
        f"model.tokenizer: {tokenizer} does not exist. Get it: "
        f"{CURL} {tokenizer} {row.vocabulary.file.url}"
    )


def test_files_that_are_not_configured_belong_into_the_cache(cache):
    """Below the host and path of their address, so that no two files meet."""
    first, second = error_of(ModelConfig(name=BASE)).splitlines()
    google = cache / "storage.googleapis.com"
    path = google / "big_vision" / "siglip" / "webli_en_b16_384_68578854.npz"
    url = VARIANTS[BASE].files["big_vision"].url
    remedy = f"Get it: {CURL} {path} {url}"
    assert first == f"model.checkpoint: {path} does not exist. {remedy}"
    path = google / "t5-data" / "vocabs" / "cc_en.32000" / "sentencepiece.model"
    url = VARIANTS[BASE].vocabulary.file.url
    remedy = f"Get it: {CURL} {path} {url}"
    assert second == f"model.tokenizer: {path} does not exist. {remedy}"


def test_cached_files_are_found(cache):
    config = ModelConfig(name=BASE)
    paths = fill(cache, config)
    files = find_files(config)
    assert [pathlib.Path(path) for path in (files.checkpoint, files.tokenizer)] == paths
    assert cache in paths[0].parents and paths[0].suffix == ".npz"


@pytest.mark.parametrize(
    ("weights", "towers", "name"),
    [
        ("open_clip", "both", "timm/ViT-B-16-SigLIP-384/resolve/main/open_clip_model.safetensors"),
        ("timm", "image", f"timm/{BASE}/resolve/main/model.safetensors"),
    ],
)
def test_the_published_file_is_the_one_of_the_wanted_format(cache, weights, towers, name):
    config = ModelConfig(name=BASE, weights=weights, towers=towers)
    fill(cache, config)
    assert pathlib.Path(find_files(config).checkpoint) == cache / "huggingface.co" / name


def test_the_image_tower_alone_needs_no_tokenizer(cache):
    config = ModelConfig(name=BASE, towers="image")
    message = error_of(config)
    assert "model.checkpoint" in message and "model.tokenizer" not in message
    paths = fill(cache, config)
    assert find_files(config).tokenizer is None
    own = ModelConfig(name=BASE, checkpoint=str(paths[0]))
    assert "model.towers=image runs image queries" in error_of(own)


def test_weights_that_nobody_publishes_are_refused():
    message = error_of(ModelConfig(name=NAFLEX, weights="open_clip"))
    assert message == f"model.weights='open_clip': {NAFLEX} has 'big_vision', 'timm'"


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("ILIAS_JAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = cached_path(PublishedFile("https://host.org/a/b.npz"))
    assert pathlib.Path(path) == tmp_path / ".cache" / "ilias_jax" / "host.org" / "a" / "b.npz"


def test_a_bucket_is_no_cache(monkeypatch):
    monkeypatch.setenv("ILIAS_JAX_CACHE", "gs://bucket/cache")
    message = error_of(ModelConfig(name=BASE))
    assert message == "ILIAS_JAX_CACHE=gs://bucket/cache must be a local folder"


def test_only_published_files_are_brought(cache, tmp_path):
    """A path that somebody configured is a mistake if nothing is there."""
    asked: list[WantedFile] = []
    config = ModelConfig(name=BASE, checkpoint=str(tmp_path / "mine.npz"))
    message = error_of(config, asked.extend)
    assert message.startswith(f"model.checkpoint: {tmp_path / 'mine.npz'} does not exist. Get it:")
    assert message.count("\n") == 0
    assert [file.published.url for file in asked] == [VARIANTS[BASE].vocabulary.file.url]


def test_nothing_is_brought_if_all_is_there(cache):
    def bring(files):
        raise AssertionError(files)

    fill(cache, ModelConfig(name=BASE))
    find_files(ModelConfig(name=BASE), bring)


def test_what_cannot_be_brought_is_named_with_what_is_missing_otherwise(cache, tmp_path):
    def bring(files):
        raise UserError("\n".join(file.problem("no network") for file in files))

    config = ModelConfig(name=BASE, tokenizer=str(tmp_path / "t.model"))
    first, second = error_of(config, bring).splitlines()
    assert first.startswith(f"model.tokenizer: {tmp_path / 't.model'} does not exist. Get it")
    assert second.startswith("model.checkpoint: ")
    assert "does not exist and could not be downloaded (no network). Get it: curl" in second


def test_only_the_missing_one_is_named(tmp_path):
    (tmp_path / "t.model").write_bytes(tiny_tokenizer.train())
    config = ModelConfig(name=BASE, tokenizer=str(tmp_path / "t.model"))
    assert "model.tokenizer" not in error_of(config)


def test_a_bundled_model_cannot_be_fetched_from_a_url(tmp_path):
    message = error_of(ModelConfig(name="tiny", checkpoint=str(tmp_path / "none.npz")))
    assert f"{tmp_path / 'none.npz'} does not exist" in message
    assert "curl" not in message
    assert "data/tiny/checkpoint.npz" in message


def test_the_bundled_models_files_are_found_without_configuration():
    files = find_files(ModelConfig(name="tiny"))
    assert files.checkpoint.exists() and files.tokenizer.exists()
    assert pathlib.Path(files.checkpoint).name == "checkpoint.npz"


def test_a_configured_file_goes_before_the_bundled_one(tmp_path):
    own = tmp_path / "own.model"
    own.write_bytes(tiny_tokenizer.train())
    files = find_files(ModelConfig(name="tiny", tokenizer=str(own)))
    assert pathlib.Path(files.tokenizer) == own
