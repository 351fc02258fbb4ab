"""A dataset of plain colours and a model that knows what each colour means.

Every image is one plain colour, every text the name of one; the model looks the colour up in a
table of vectors. So the score of any query and image is known by construction, through JPEG,
shards, embedding, search and metrics.
"""

import gzip
import io
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ilias_jax.config import BenchmarkConfig, parse
from ilias_jax.dataset import layout, shards
from ilias_jax.dataset.layout import ImageRecord, TextRecord
from ilias_jax.model import Model, Preprocessing

LEVELS = (16, 80, 144, 208)
PALETTE = np.array(list(itertools.product(LEVELS, repeat=3)), np.float32)  # 64 colours
SIDE = 16


def jpeg(color: int, size: tuple[int, int] = (48, 48)) -> bytes:
    """A picture of one colour of the palette."""
    buffer = io.BytesIO()
    shade = tuple(int(v) for v in PALETTE[color])
    Image.new("RGB", size, shade).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write(
    folder,
    queries: dict[str, int],
    positives: dict[str, tuple[int, float, int]],
    distractors: list[dict[str, int]],
    texts: dict[str, int],
) -> None:
    """Writes shards and ground truth.

    Args:
        folder: of the dataset.
        queries: id -> colour of the image queries.
        positives: id -> (colour, scale, clutter).
        distractors: list of shards, each a dict id -> colour.
        texts: id -> colour of the text queries.
    """

    def records(colors):
        return [ImageRecord(name, jpeg(color)) for name, color in colors.items()]

    shown = {i: color for i, (color, _, _) in positives.items()}
    splits = {
        "image_query": [shards.write_image_shard(folder, "image_query", 0, 1, records(queries))],
        "positive": [shards.write_image_shard(folder, "positive", 0, 1, records(shown))],
        "distractor": [
            shards.write_image_shard(folder, "distractor", i, len(distractors), records(colors))
            for i, colors in enumerate(distractors)
        ],
    }
    counts = shards.write_text_shard(folder, [TextRecord(i, str(c)) for i, c in texts.items()])
    shards.write_metadata(layout.images_folder(folder), shards.image_features(), splits, "colours")
    shards.write_metadata(
        layout.texts_folder(folder), shards.text_features(), {"text_query": [counts]}, "colours"
    )
    ids = folder / "image_ids"
    ids.mkdir()
    (ids / "image_query_ids.txt").write_text("".join(f"{i},x\n" for i in queries))
    (ids / "text_query_ids.txt").write_text("".join(f"{i}\n" for i in texts))
    list_distractors(folder, [i for colors in distractors for i in colors])
    (ids / "positive_ids.txt").write_text(
        "".join(f"{i},{scale},{clutter}\n" for i, (_, scale, clutter) in positives.items())
    )
    objects = sorted({i.split("/")[0] for i in [*queries, *texts]})
    (folder / "misc").mkdir()
    (folder / "misc" / "taxonomy.json").write_text(json.dumps({"all": {"mid": {"fine": objects}}}))


def list_distractors(folder, ids: list[str]) -> None:
    """Writes the official list of all distractors, each once."""
    lines = "".join(f"{image_id}\n" for image_id in dict.fromkeys(ids))
    path = folder / "image_ids" / "distractor_ids.txt.gz"
    path.write_bytes(gzip.compress(lines.encode()))


def model(table: np.ndarray, name: str = "colours") -> Model:
    """The model that gives an image or text of colour c the vector table[c].

    Args:
        table: [64, D] float32.
        name: part of the fingerprint.
    """

    def embed_images(parameters, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        del grid
        shade = (pixels.reshape(len(pixels), -1, 3).mean(axis=1) * 0.5 + 0.5) * 255
        distance = jnp.abs(shade[:, None] - PALETTE[None]).max(axis=-1)
        return parameters["table"][jnp.argmin(distance, axis=-1)]

    def embed_texts(parameters, tokens: jax.Array) -> jax.Array:
        return parameters["table"][tokens[:, 0]]

    def tokenize(texts) -> np.ndarray:
        return np.array([[int(text)] for text in texts], np.int32)

    return Model(
        name,
        {"table": np.asarray(table, np.float32)},
        Preprocessing(SIDE, SIDE),
        embed_images,
        embed_texts,
        tokenize,
        {"name": name},
    )


def config(folder, **sections) -> BenchmarkConfig:
    """A small configuration over the dataset in `folder`."""
    values = {
        "dataset": {"name": "colours", "data_dir": str(folder)},
        "model": {"name": "colours"},
        "embed": {
            "batch_size_per_device": 3,
            "num_buckets": 1,
            "canvas": 64,
            "storage_dtype": "float32",
        },
        "search": {"k": 1000, "block_rows": 4},
        "metrics": {"num_resamples": 40},
        "report": {"gallery_queries": 1, "gallery_results": 3},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return parse(values)
