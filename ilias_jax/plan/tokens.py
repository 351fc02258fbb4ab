"""Which token lengths a mix of images is padded to, and in how many batches."""

import math
from collections.abc import Mapping, Sequence

from ilias_jax.batching import bucket_lengths
from ilias_jax.config import EmbedConfig, ViewsConfig
from ilias_jax.model import Preprocessing

# Longest side by shortest side -> share of the images.
Aspects = Mapping[float, float]
# What cameras take; an assumption, as no table of the official images' sizes is published.
PHOTO_ASPECTS: Aspects = {1.0: 0.10, 4 / 3: 0.50, 3 / 2: 0.35, 16 / 9: 0.05}
# What the miniature world draws.
WORLD_ASPECTS: Aspects = {1.0: 1 / 6, 1.25: 1 / 6, 4 / 3: 2 / 6, 1.5: 1 / 6, 16 / 9: 1 / 6}


def num_tokens(how: Preprocessing, aspect: float, scale: float = 1.0) -> int:
    """Patches of an image with this aspect ratio, at least 1, at a scale."""
    shortest = max(1, math.floor(max(1, int(how.resolution / aspect)) * scale))
    return how.side_at(scale) * -(-shortest // how.patch_size)


def lengths_of(how: Preprocessing, views: ViewsConfig, embed: EmbedConfig) -> tuple[int, ...]:
    """The lengths that images are padded to, rising."""
    return bucket_lengths(how, embed.num_buckets, views.max_scale)


def shares(
    aspects: Aspects, how: Preprocessing, views: ViewsConfig, lengths: Sequence[int]
) -> dict[int, float]:
    """Share of all views that each length takes, lengths that take none left out; sums to 1."""
    found: dict[int, float] = {}
    for aspect, share in aspects.items():
        for scale in views.scales:
            tokens = num_tokens(how, aspect, scale)
            length = next(length for length in lengths if length >= tokens)
            found[length] = found.get(length, 0.0) + share / len(views.scales)
    return dict(sorted(found.items()))


def num_batches(num_images: int, share: float, batch_size: int, num_views: int) -> int:
    """Batches of one length, the very last one being filled up; shards share batches.

    Args:
        num_images: of all splits.
        share: of the views that have this length.
        batch_size: of all devices.
        num_views: of an image.
    """
    return math.ceil(round(num_images * num_views * share, 6) / batch_size)
