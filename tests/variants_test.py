import re

import pytest

from ilias_jax.towers.variants import VARIANTS

PUBLISHED = {name: row for name, row in VARIANTS.items() if not row.bundled}


def official_test_resolution(train_resolution: int) -> int:
    """The published rule from training resolution to test resolution."""
    for low, high, test in ((224, 288, 384), (299, 384, 512), (512, 512, 724)):
        if low <= train_resolution <= high:
            return test
    raise ValueError(train_resolution)


def test_the_published_siglips_are_all_there():
    base = {f"vit_base_patch16_siglip_{side}.webli" for side in (224, 256, 384, 512)}
    large = {f"vit_large_patch16_siglip_{side}.webli" for side in (256, 384)}
    assert base | large == PUBLISHED.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_grid_is_that_of_the_training_resolution(name):
    row = VARIANTS[name]
    assert row.architecture.native_grid * row.architecture.patch_size == row.train_resolution


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_agrees_with_its_name_and_its_file(name):
    row = VARIANTS[name]
    size, side = re.fullmatch(r"vit_(base|large)_patch16_siglip_(\d+)\.webli", name).groups()
    assert row.train_resolution == int(side)
    assert row.test_resolution == official_test_resolution(int(side))
    assert re.search(rf"/webli_en_{size[0]}16_{side}_\d+\.npz$", row.checkpoint)
    width, depth = {"base": (768, 12), "large": (1024, 24)}[size]
    for tower in (row.architecture.image, row.architecture.text):
        assert (tower.width, tower.depth) == (width, depth)
        assert tower.mlp_dim == 4 * width
        assert tower.width // tower.num_heads == 64
    assert row.architecture.text_length == 64
    assert row.architecture.vocab_size == 32_000
    assert row.pad_id == 1


def test_no_two_rows_share_a_checkpoint():
    checkpoints = [row.checkpoint for row in VARIANTS.values()]
    assert len(set(checkpoints)) == len(checkpoints)


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_come_from_https(name):
    row = VARIANTS[name]
    assert row.checkpoint.startswith("https://storage.googleapis.com/big_vision/siglip/")
    assert row.tokenizer.startswith("https://") and row.tokenizer.endswith("sentencepiece.model")


def test_only_the_bundled_model_is_named_by_paths():
    bundled = [name for name, row in VARIANTS.items() if row.bundled]
    assert bundled == ["tiny"]
    for name in bundled:
        assert "://" not in VARIANTS[name].checkpoint + VARIANTS[name].tokenizer
