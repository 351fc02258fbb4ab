"""The databases of a plan, and how images fall into token lengths and batches."""

import pytest

from ilias_jax.config import EmbedConfig, ViewsConfig, WorldConfig
from ilias_jax.model import Preprocessing
from ilias_jax.plan import tokens
from ilias_jax.plan.sizes import sizes_of

L384 = Preprocessing(512, 16)


def test_mini_and_full_are_the_published_counts():
    _, mini, full = sizes_of(None)
    for sizes, distractors in ((mini, 5_000_000), (full, 100_000_000)):
        assert sizes.num_distractors == distractors
        assert (sizes.num_image_queries, sizes.num_text_queries) == (1_232, 1_000)
        assert sizes.num_rows == distractors + 4_715
        assert sizes.num_images == distractors + 4_715 + 1_232
        assert sizes.num_queries == 2_232
        assert sizes.image_bytes == 63_000
        assert not sizes.is_generated
    assert (mini.num_tars, full.num_tars) == (45, 1_000)


def test_the_demo_is_the_recipes_world():
    world = WorldConfig(num_objects=3, num_image_queries=4, num_positives=5, num_distractors=60)
    demo = sizes_of(world)[0]
    assert (demo.num_image_queries, demo.num_text_queries) == (4, 3)
    assert (demo.num_rows, demo.num_images, demo.num_tars) == (65, 69, 10)
    assert demo.is_generated
    assert sizes_of(None)[0].num_distractors == WorldConfig().num_distractors == 5000


def test_tokens_of_an_image_are_whole_rows_of_patches():
    assert tokens.num_tokens(L384, 1.0) == 32 * 32
    assert tokens.num_tokens(L384, 4 / 3) == 32 * 24  # 384 pixels
    assert tokens.num_tokens(L384, 1.5) == 32 * 22  # 341 pixels
    assert tokens.num_tokens(L384, 4 / 3, 0.5) == 16 * 12


def test_shares_follow_the_longest_length_that_is_needed():
    lengths = tokens.lengths_of(L384, ViewsConfig(), EmbedConfig(num_buckets=8))
    assert lengths == tuple(32 * short for short in (6, 11, 15, 18, 22, 24, 28, 32))
    aspects = {1.0: 0.25, 4 / 3: 0.5, 1.5: 0.25}
    assert tokens.shares(aspects, L384, ViewsConfig(), lengths) == {704: 0.25, 768: 0.5, 1024: 0.25}


def test_every_scale_has_its_own_length():
    views = ViewsConfig(scales=(0.5, 1.0))
    how = Preprocessing(512, 16, max_scale=1.0)
    lengths = tokens.lengths_of(how, views, EmbedConfig(num_buckets=8))
    assert tokens.shares({1.0: 1.0}, how, views, lengths) == {352: 0.5, 1024: 0.5}


@pytest.mark.parametrize("aspects", [tokens.PHOTO_ASPECTS, tokens.WORLD_ASPECTS])
def test_shares_sum_to_one(aspects):
    lengths = tokens.lengths_of(L384, ViewsConfig(), EmbedConfig(num_buckets=8))
    found = tokens.shares(aspects, L384, ViewsConfig(), lengths)
    assert sum(found.values()) == pytest.approx(1.0)


def test_the_last_batch_of_a_length_counts_whole():
    # Half of 5,000 images in batches of 32: 78 and a bit.
    assert tokens.num_batches(5000, 0.5, 32, 1) == 79
    # Two views of each.
    assert tokens.num_batches(5000, 0.5, 32, 2) == 157
    # A third of 96 is one batch of 32, and not one more for the last bit of a float.
    assert tokens.num_batches(96, 1 / 3, 32, 1) == 1
