"""Pictures of any shape, and shards of them."""

import io
import pathlib
from collections.abc import Sequence

import numpy as np
import parity_weights as seeded
from PIL import Image

from ilias_jax.dataset import layout, shards
from ilias_jax.dataset.layout import ImageRecord


def jpegs(count: int, seed: int = 2) -> list[bytes]:
    """Sides of 1 to 160 pixels: up and down, square to 1 x 160, either way up."""
    rng, files = np.random.default_rng(seed), []
    for number in range(count):
        longest = int(rng.integers(2, 161))
        shortest = max(1, round(longest * rng.uniform(0, 1))) if number % 10 else 1
        width, height = (longest, shortest) if rng.random() < 0.5 else (shortest, longest)
        buffer = io.BytesIO()
        picture = Image.fromarray(seeded.picture(rng, width, height))
        picture.save(buffer, "JPEG", quality=92)
        files.append(buffer.getvalue())
    return files


def write_shards(folder: pathlib.Path, pictures: Sequence[bytes]) -> None:
    """Some queries, some positives, the rest distractors in tars of 30, in their order."""
    splits: dict[str, list[Sequence[bytes]]] = {
        "image_query": [pictures[:10]],
        "positive": [pictures[10:30]],
        "distractor": [pictures[start : start + 30] for start in range(30, len(pictures), 30)],
    }
    counts = {
        split: [
            shards.write_image_shard(
                folder,
                split,
                number,
                len(parts),
                [ImageRecord(f"{split}{number}/{i}", jpeg) for i, jpeg in enumerate(part)],
            )
            for number, part in enumerate(parts)
        ]
        for split, parts in splits.items()
    }
    shards.write_metadata(layout.images_folder(folder), shards.image_features(), counts, "any")
