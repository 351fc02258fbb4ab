"""Prints and writes what each `model.dtype` costs beside float32: `data/dtypes.csv`.

    python scripts/measure_dtypes.py

The bundled model, which was trained, on the pictures and texts of a small world; and networks of
the table at full depth with drawn weights, on the pictures and texts that their references are
compared with. `cosine` is the mean between an output and that of float32; `error` is the root mean
square of their difference over that of the outputs' distances from their mean, which is the spread
that a search tells images apart by.
"""

import csv
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import graph_towers  # noqa: E402
from graph_cases import GRAPHS  # noqa: E402

from ilias_jax.config import DatasetConfig, Dtype, ModelConfig, WorldConfig
from ilias_jax.dataset.reader import open_dataset
from ilias_jax.dataset.synthetic.generate import make_world
from ilias_jax.models.load import load_model, text_function
from ilias_jax.models.registry.registry import resolve_row
from ilias_jax.preprocessing.decode import jpeg_to_patches
from ilias_jax.preprocessing.resize import normalize_patches, patch_grid

TABLE = pathlib.Path(__file__).parents[1] / "data" / "dtypes.csv"
IMAGES = ("clip_b16", "dinov2_b14", "dinov3_b16", "augreg_b16")
TEXTS = ("clip_b_text",)
DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")


def spread_error(ours: np.ndarray, full: np.ndarray) -> tuple[float, float]:
    """(mean cosine, error as above) of outputs [N, D] beside those of float32."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(full, axis=1)
    cosine = np.mean((ours * full).sum(axis=1, dtype=np.float64) / norms)
    spread = np.sqrt(np.mean((full - full.mean(axis=0)) ** 2))
    return float(cosine), float(np.sqrt(np.mean((ours - full) ** 2)) / spread)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows [N, D] divided by their length, as they are stored."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def of_tiny(folder: pathlib.Path) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """(network, modality, dtype, unit vectors) of the bundled model on a small world."""
    dataset = open_dataset(DatasetConfig("small", str(folder)))
    records = dataset.read(dataset.shards("distractor")[0], lambda record: record, 2)
    jpegs = [record.jpeg for record in records]
    texts = [record.text for record in dataset.text_queries()]
    for dtype in DTYPES:
        model = load_model(resolve_row(ModelConfig("tiny", dtype=dtype)))
        how = model.preprocessing
        embed = jax.jit(model.embed_images)
        found = []
        for jpeg in jpegs:
            cut = jpeg_to_patches(jpeg, how.resolution, how.patch_size, False)
            room = (how.resolution // how.patch_size) ** 2 - len(cut.pixels)
            size = jnp.asarray([cut.size], jnp.int32)
            padded = jnp.asarray(np.pad(cut.pixels, ((0, room), (0, 0)))[None])
            pixels = normalize_patches(padded, size, how.patch_size, how.mean, how.std)
            found.append(embed(model.parameters, pixels, patch_grid(size, how.patch_size)))
        yield "tiny", "image", dtype, unit(np.concatenate(found))
        assert model.tokenize is not None and model.embed_texts is not None  # it has both towers
        tokens = model.tokenize(texts)
        yield (
            "tiny",
            "text",
            dtype,
            unit(np.asarray(jax.jit(model.embed_texts)(model.parameters, tokens))),
        )


def of_graphs() -> Iterator[tuple[str, str, str, np.ndarray]]:
    """The same of the networks with drawn weights."""
    for name in IMAGES:
        case = GRAPHS[name]
        for dtype in DTYPES:
            vectors = graph_towers.image_outputs(case, case.activations[0], dtype)
            yield name, "image", dtype, unit(vectors)
    for name in TEXTS:
        case = GRAPHS[name]
        config = graph_towers.architecture(case, case.activations[0])
        for dtype in DTYPES:
            embed = jax.jit(text_function(config, dtype))
            vectors = embed(graph_towers.parameters(name), case.inputs.tokens())
            yield name, "text", dtype, unit(np.asarray(vectors))


def main() -> None:
    """Measures, prints and writes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        world = pathlib.Path(folder) / "world"
        make_world(WorldConfig(11, num_distractors=200, num_tars=1), world, 2)
        for results in (of_tiny(world), of_graphs()):
            kept: dict[tuple[str, str], np.ndarray] = {}
            for network, modality, dtype, vectors in results:
                full = kept.setdefault((network, modality), vectors)
                if dtype == "float32":
                    continue
                cosine, error = spread_error(vectors, full)
                row = [network, modality, dtype, len(vectors), f"{cosine:.7f}", f"{error:.2e}"]
                rows.append(row)
                print(*row, flush=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "modality", "dtype", "inputs", "cosine", "error"])
        writer.writerows(sorted(rows))


if __name__ == "__main__":
    main()
